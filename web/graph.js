// What the hub says of itself on /metrics, drawn over the last minute.

import { $, el, whileVisible } from './dom.js';
import { ELSEWHERE } from './service.js';

const EVERY_MS = 1000;
const POINTS = 60;
const SVG = 'http://www.w3.org/2000/svg';
const DELIVERIES = 'realtime_deliveries_total', STREAMS = 'realtime_streams_open', LATENCY = 'realtime_publish_to_write_seconds_bucket';

/** Of each metric its sum over all labels, and the buckets of the latency: {sums: Map, buckets: Map of le}. */
export function parseMetrics(text) {
  const sums = new Map(), buckets = new Map();
  for (const [, name, labels, number] of text.matchAll(/^(realtime_\w+)(?:\{(.*)\})? (\S+)/gm)) {
    const le = name === LATENCY && /le="([^"]+)"/.exec(labels)?.[1];
    const [map, key] = le ? [buckets, le === '+Inf' ? Infinity : Number(le)] : [sums, name];
    map.set(key, (map.get(key) ?? 0) + Number(number));
  }
  return { sums, buckets };
}

/** As Prometheus' histogram_quantile: linear within a bucket; NaN where nothing was counted. */
export function quantile(q, buckets) {
  const sorted = [...buckets].sort(([a], [b]) => a - b);
  const rank = q * (sorted.at(-1)?.[1] ?? 0);
  if (!(rank > 0)) return NaN;
  const i = sorted.findIndex(([, count]) => count >= rank);
  const [from, below] = sorted[i - 1] ?? [0, 0];
  const [to, count] = sorted[i];
  return to === Infinity ? from : from + (to - from) * ((rank - below) / (count - below));
}

const whole = new Intl.NumberFormat([], { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat([], { maximumSignificantDigits: 3 });
const duration = (s) => (s < 0.001 ? `${short.format(s * 1e6)} µs` : s < 1 ? `${short.format(s * 1e3)} ms` : `${short.format(s)} s`);

function makeGraph(id, label, meaning, format) {
  const svg = document.createElementNS(SVG, 'svg'), path = document.createElementNS(SVG, 'path'), area = document.createElementNS(SVG, 'path');
  svg.setAttribute('viewBox', `0 0 ${POINTS - 1} 40`);
  svg.setAttribute('preserveAspectRatio', 'none');
  svg.setAttribute('aria-hidden', 'true');
  area.setAttribute('class', 'area');
  svg.append(area, path);
  const value = el('dd', '', '–'), peak = el('span', 'meta', '');
  value.dataset.graph = id;
  const graph = el('div', '', el('dt', '', label), value, el('dd', 'chart', peak, svg));
  graph.title = meaning;
  $('graphs').append(graph);
  let points = [];
  return (point) => {
    points = [...points.slice(1 - POINTS), point];
    const most = Math.max(...points.filter(Number.isFinite), 0);
    value.textContent = Number.isFinite(point) ? format(point) : '–';
    peak.textContent = most > 0 ? `peak ${format(most)}` : '';
    // A point that is not there leaves a hole in the line.
    const runs = points.map((y, i) => [POINTS - points.length + i, 39 - 36 * (y / (most || 1))]).reduce((all, [x, y]) => {
      if (!Number.isFinite(y)) return [...all, []];
      all.at(-1).push(`${x} ${y.toFixed(1)}`);
      return all;
    }, [[]]).filter((run) => run.length);
    const x = (point) => point.split(' ')[0];
    path.setAttribute('d', runs.map((run) => `M${run.join('L')}${run.length > 1 ? '' : `L${run[0]}`}`).join(''));
    area.setAttribute('d', runs.map((run) => `M${x(run[0])} 40L${run.join('L')}L${x(run.at(-1))} 40Z`).join(''));
  };
}

const ADVICE = {
  401: 'The service credential is not valid (401). Paste an API key bound to * at the top.',
  403: 'These numbers are of all tenants, so they take an API key bound to * (403): REALTIME_API_KEYS="*=KEY".',
  404: ELSEWHERE,
};

export function startGraphs(service) {
  const deliveries = makeGraph('deliveries', 'Deliveries a second', 'An event for ten streams is ten deliveries', whole.format);
  const streams = makeGraph('streams', 'Open streams', 'A person has one for each browser, or for each device', whole.format);
  const latency = makeGraph('latency', 'Publish to socket, 99 % within', 'Of 100 deliveries in the last second, 99 took this long at most: from the publish until the event was written to the stream', duration);
  let last = null, refused = false;

  async function poll() {
    if (refused) return;
    const answer = service.mayCall ? await service.call('GET', '/metrics') : { ok: false };
    refused = Boolean(ADVICE[answer.status]) || !service.mayCall;
    $('live').classList.toggle('none', !answer.ok);
    $('live-note').textContent = answer.ok ? '' : ADVICE[answer.status]
      ?? (service.mayCall ? 'The hub does not answer; asking on.' : 'These numbers are of all tenants: paste an API key bound to * at the top.');
    if (!answer.ok) return void (last = null);
    const now = { ...parseMetrics(answer.text), at: performance.now() };
    streams(now.sums.get(STREAMS));
    const sent = last && now.sums.get(DELIVERIES) - last.sums.get(DELIVERIES);
    if (sent >= 0 && last) { // less than before is another hub, or one that began anew
      deliveries(sent / ((now.at - last.at) / 1000));
      latency(quantile(0.99, new Map([...now.buckets].map(([le, count]) => [le, count - (last.buckets.get(le) ?? 0)]))));
    }
    last = now;
  }

  const again = whileVisible($('live'), EVERY_MS, poll);
  service.addEventListener('change', () => {
    refused = false;
    again();
  });
}
