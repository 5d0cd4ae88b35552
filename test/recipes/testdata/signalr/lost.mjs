// A page that comes back from each end of its session with the cursor that it knows. It says when it hears, and at the end all that it heard.
import { HubConnectionState } from '@microsoft/signalr';
import { base, connection, until } from './world.mjs';

process.on('unhandledRejection', (why) => console.log(`unhandled: ${why}`)); // the client leaves a POST alone that fails while it stops; a page goes on
const heard = [];
let cursor, over = false;
const resume = () => setTimeout(() => { // the client heeds a close message before events that came ahead of it
  if (c.state === HubConnectionState.Reconnecting) c.baseUrl = `${base}/signalr?tenant=acme&profile=me&cursor=${cursor}`;
});
const c = connection('me', '', {
  nextRetryDelayInMilliseconds() { // an attempt that fails may have heard something
    resume();
    return 50;
  },
});
c.onreconnecting((why) => {
  console.log(`lost: ${why}`);
  resume();
});
c.onclose((why) => console.log(`closed: ${why}`));
c.on('hub.ready', (ready, at) => {
  cursor = at ?? ready.cursor;
  if (ready.resume === 'partial') heard.push('a gap');
  console.log(`ready ${ready.connectionId}`);
});
c.on('a.b', ({ payload }, at) => {
  cursor = at;
  if (payload === 'over') over = true;
  else heard.push(payload);
});
c.onreconnected(() => console.log('connected'));
await c.start();
console.log('connected');
await until(() => over, 'the end', 240_000); // of all cuts, each of which may take its time
console.log(`heard ${heard.join(' ')}`);
process.exit(0);
