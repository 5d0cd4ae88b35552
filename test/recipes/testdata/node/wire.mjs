// A line to a hub that can be cut.
import net from 'node:net';

export async function wire(hub) {
  const { hostname, port } = new URL(hub), ends = new Set();
  const server = net.createServer((near) => {
    const far = net.connect(Number(port), hostname);
    for (const end of [near, far]) {
      ends.add(end.unref()); // it keeps no program
      end.on('error', () => {});
      end.on('close', () => {
        ends.delete(end);
        near.destroy();
        far.destroy();
      });
    }
    near.pipe(far).pipe(near);
  }).unref();
  await new Promise((done) => server.listen(0, '127.0.0.1', done));
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    cut() { for (const end of ends) end.destroy(); },
  };
}
