//go:build unix

package recipes

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/matryer/is"
)

// The npm package ws, with which Node's services speak WebSocket, as a client does that resumes.
const socketClient = `
import { WebSocket } from 'ws';
let last = '';
function open() {
  let pings = 0;
  const socket = new WebSocket(process.env.HUB.replace('http', 'ws') + '/v1/socket?cursor=' + last, ['realtime.v1'], { headers: { Authorization: 'Bearer ' + process.env.TOKEN } });
  socket.on('ping', () => console.log('pinged', ++pings));
  socket.on('open', () => socket.send('{"n":7,"do":"touch"}'));
  socket.on('message', (data) => {
    for (const line of data.toString().split('\n')) {
      const { id, event, data, n, ok } = JSON.parse(line);
      if (id) last = id;
      if (n) console.log(n, ok);
      if (event === 'hub.ready') console.log(data.resume);
      if (event === 'order.paid') console.log(event, data.payload);
    }
  });
  socket.on('error', (error) => console.log('error', error.message));
  socket.on('close', (code, reason) => { console.log('closed', code, reason.toString()); open(); });
}
open();
`

// The npm package ws answers pings, gets each event once over several sockets, and sees the reason
// of each end.
func TestRecipesNodeWebSocket(t *testing.T) {
	t.Parallel()
	needNode(t)
	needs(t, "npm")
	is := is.New(t)
	r := newRecipes(t, "REALTIME_HEARTBEAT=500ms")
	is.NoErr(os.WriteFile(filepath.Join(r.dir, "socket.mjs"), []byte(socketClient), 0o644))
	installed(t, r.dir, "ws@8.23.0")
	publish := func(text string) {
		status, _ := r.hub(http.MethodPost, "/v1/tenants/acme/profiles/user:42/events", `{"type":"order.paid","payload":"`+text+`"}`)
		is.Equal(status, http.StatusAccepted)
	}
	printed := r.start("node", "socket.mjs")
	r.prints(printed, "7 true")
	publish("live")
	r.prints(printed, "order.paid live")
	r.prints(printed, "pinged 6") // twice as often as it may leave unanswered
	status, _ := r.hub(http.MethodDelete, "/v1/tenants/acme/connections?profile=user:42", "")
	is.Equal(status, http.StatusNoContent)
	publish("missed")
	r.prints(printed, "closed 4410 kicked")
	r.prints(printed, "complete")
	r.prints(printed, "order.paid missed")
}
