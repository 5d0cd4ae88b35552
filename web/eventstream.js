// An event stream read with fetch, since EventSource can send no header: the parsing
// and the reconnecting are those of the HTML standard, section 9.2.

/** Parses the body of an event stream; calls onEvent({type, data, lastEventId}) and onRetry(ms). */
async function parse(body, lastEventId, onEvent, onRetry) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '', type = '', data = [], id = lastEventId;
  const line = (text) => {
    if (!text) {
      lastEventId = id;
      onEvent({ type: type || 'message', data: data.join('\n'), lastEventId }, data.length > 0);
      type = '';
      data = [];
      return;
    }
    const [, field, value] = text.match(/^([^:]*)(?:: ?(.*))?$/s);
    if (field === 'event') type = value ?? '';
    else if (field === 'data') data.push(value ?? '');
    else if (field === 'id' && !value?.includes('\0')) id = value ?? '';
    else if (field === 'retry' && /^\d+$/.test(value)) onRetry(Number(value));
  };
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return; // what is unfinished is dropped
    rest += value;
    // A CR at the end may be half of a line's end.
    const lines = rest.split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    lines.forEach(line);
  }
}

/**
 * Opens a stream and keeps it open until close() is called or the server refuses it (4xx).
 * headers() is asked before each try; onEvent gets every event, onLost each loss, onRefused the answer.
 */
export function openEventStream(url, { headers, lastEventId = '', onEvent, onLost, onRefused }) {
  const abort = new AbortController();
  let retry = 2000, timer = 0;
  const lose = () => {
    if (abort.signal.aborted) return;
    onLost();
    timer = setTimeout(connect, retry * (1 + Math.random() / 2));
  };
  async function connect() {
    try {
      const response = await fetch(url, {
        cache: 'no-store', signal: abort.signal,
        headers: { Accept: 'text/event-stream', ...headers(), ...(lastEventId && { 'Last-Event-ID': lastEventId }) },
      });
      if (response.status >= 400 && response.status < 500) return void onRefused(response);
      if (response.ok) {
        await parse(response.body, lastEventId, (event, complete) => {
          lastEventId = event.lastEventId;
          if (complete && !abort.signal.aborted) onEvent(event);
        }, (ms) => { retry = ms; });
      }
    } catch { /* lost, as at the end of a body */ }
    lose();
  }
  connect();
  return { close() { abort.abort(); clearTimeout(timer); } };
}
