"use strict";
// Draws status.json again and again, in place, so that focus, selection and scrolling stay where they are.
// Everything goes into the page as text: names come from settings and projections, whoever wrote them.

const EVERY_MS = 3000;
const PATIENCE_MS = 5000;
const HISTORY_SECONDS = 600;
const sections = new Map();
const number = new Intl.NumberFormat("en");

const find = (selector, root = document) => root.querySelector(selector);
const whole = (value) => (value === null || value === undefined ? "unknown" : number.format(Math.round(value)));

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "unknown";
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 129600 ? `${(seconds / 3600).toFixed(1)} h` : `${Math.round(seconds / 86400)} d`;
}

function ranges(numbers) {
  const runs = [];
  for (const n of numbers) {
    const last = runs.at(-1);
    if (last && n === last[1] + 1) last[1] = n;
    else runs.push([n, n]);
  }
  return runs.map(([from, to]) => (from === to ? `${from}` : `${from}–${to}`)).join(", ") || "none";
}

function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function verdict(word, concerns, good) {
  const list = find("#concerns");
  const said = [...list.children].map((item) => item.textContent);
  find("#verdict").className = `verdict ${good ? "good" : "bad"}`;
  put(find("#verdict-word"), word);
  if (JSON.stringify(said) !== JSON.stringify(concerns)) {
    list.replaceChildren(...concerns.map((text) => Object.assign(document.createElement("li"), { textContent: text })));
  }
  document.title = `${good ? "✓" : "✗"} projection-worker`;
}

// The number beside it says the same.
function bar(share) {
  const made = Object.assign(document.createElement("progress"), { max: 1, value: share });
  made.setAttribute("aria-hidden", "true");
  return made;
}

function slowest(section, streams) {
  const most = Math.max(...(streams ?? []).map((stream) => stream.lag_seconds ?? 0), 1);
  fill(section, "slowest", (streams ?? []).map((stream) => [
    { text: stream.standing, bad: stream.standing !== "behind" },
    { text: duration(stream.lag_seconds), share: (stream.lag_seconds ?? most) / most },
    stream.events === null ? "unknown" : `${whole(stream.events)}${stream.counted ? "" : " or more"}`,
  ]), streams ? "nothing waits" : "unknown");
}

function fill(section, name, rows, none) {
  const table = find(`[data-table=${name}]`, section);
  const made = rows.map((cells) => {
    const row = document.createElement("tr");
    cells.forEach((cell, at) => {
      const made = document.createElement(at === 0 ? "th" : "td");
      if (at === 0) made.scope = "row";
      made.textContent = cell.text ?? cell;
      if (cell.bad) made.className = "bad";
      if (cell.share !== undefined) made.prepend(bar(cell.share));
      row.append(made);
    });
    return row;
  });
  if (!made.length) {
    const row = document.createElement("tr");
    const cell = Object.assign(document.createElement("td"), { textContent: none, className: "none" });
    cell.colSpan = find("thead tr", table).children.length;
    row.append(cell);
    made.push(row);
  }
  find("tbody", table).replaceChildren(...made);
}

function draw(section, name, title, points, now, say) {
  const figure = find(`[data-chart=${name}]`, section);
  const known = points.filter(([, value]) => value !== null);
  const most = Math.max(0, ...known.map(([, value]) => value));
  const last = known.length ? known.at(-1)[1] : null;
  const top = Math.max(most * 1.1, 1);
  const place = ([at, value]) =>
    [600 * (1 - (now - at) / HISTORY_SECONDS), 98 - (96 * value) / top].map((n) => n.toFixed(1)).join(" ");
  // A gap where nobody knew.
  const runs = points.reduce((all, point) => {
    if (point[1] === null) all.push([]);
    else all.at(-1).push(place(point));
    return all;
  }, [[]]).filter((run) => run.length);
  find(".line", figure).setAttribute("d", runs.map((run) => `M${run.join("L")}`).join(""));
  find(".area", figure).setAttribute("d", runs.map((run) =>
    `M${run[0].split(" ")[0]} 100L${run.join("L")}L${run.at(-1).split(" ")[0]} 100Z`).join(""));
  const words = known.length ? `${title}: ${say(last)} now, at most ${say(most)}` : `${title}: unknown`;
  put(find("figcaption", figure), words);
  find("svg", figure).setAttribute("aria-label", `${words}, in the last 10 minutes`);
}

function figure(section, name, text, bad) {
  const element = find(`[data-figure=${name}]`, section);
  put(element, text);
  element.className = bad ? "bad" : "";
}

function sectionOf(projection) {
  if (!sections.has(projection.name)) {
    const section = find("#projection").content.cloneNode(true).firstElementChild;
    const heading = find("h2", section);
    heading.id = `projection-${sections.size}`;
    section.setAttribute("aria-labelledby", heading.id);
    find(".scroll", section).setAttribute("aria-label", `Replicas of ${projection.name}`);
    find("#projections").append(section);
    sections.set(projection.name, section);
  }
  return sections.get(projection.name);
}

function show(projection, now) {
  const section = sectionOf(projection);
  const status = projection.status;
  const history = projection.history;
  put(find("h2", section), `${projection.name}, version ${projection.version}`);
  figure(section, "lag", duration(status?.lag_seconds), status?.lag_seconds > 30);
  figure(section, "hints", whole(projection.lag_hints));
  figure(section, "rate", whole(status?.events_per_second));
  figure(section, "replicas", whole(status?.replicas.length), status?.replicas.length === 0);
  const letters = status?.letters;
  figure(section, "blocked", whole(letters?.blocked), letters?.blocked > 0);
  figure(section, "diverged", whole(status?.diverged), status?.diverged > 0);
  draw(section, "lag", "Oldest waiting event", history.map((m) => [m[0], m[1]]), now, duration);
  draw(section, "rate", "Events a second", history.map((m) => [m[0], m[3]]), now, whole);
  fill(section, "replicas", (status?.replicas ?? []).map((replica) => [
    replica.consumer,
    replica.troubles.length ? { text: "not ready", bad: true } : "ready",
    `${replica.version}`,
    duration(now - replica.started_at),
    ranges(replica.partitions),
    whole(replica.events_applied),
    whole(replica.rows_written),
    whole(replica.comparisons_lost),
    whole(replica.pending_streams),
  ]), status ? "no replica is alive" : "unknown");
  slowest(section, projection.slowest);
  fill(section, "letters", Object.entries(letters?.by_reason ?? {}).map(([reason, events]) =>
    [reason.replaceAll("_", " "), whole(events)]), letters ? "none" : "unknown");
  fill(section, "versions", Object.entries(status?.rows_by_version ?? {}).map(([version, rows]) =>
    [version === "0" ? "made by others" : version, whole(rows)]), letters ? status.unreadable || "none" : "unknown");
  const sweep = status?.sweep;
  fill(section, "behind", sweep ? [
    ["streams seen", whole(sweep.streams)],
    ["streams behind", whole(sweep.behind)],
    ["rows without a log", whole(sweep.vanished)],
    ["unusable keys", whole(sweep.unusable_keys)],
    ["took", duration(sweep.seconds)],
  ] : [], "no sweep lately");
  rebuild(section, status?.rebuild);
}

function rebuild(section, progress) {
  const paragraph = find(".rebuild", section);
  paragraph.hidden = !progress;
  if (!progress) return;
  const bar = find("progress", paragraph);
  bar.max = Math.max(progress.streams, 1);
  bar.value = progress.done;
  const left = progress.seconds_left === null ? "" : `, ${duration(progress.seconds_left)} left`;
  const workers = progress.workers.length ? `at work: ${progress.workers.join(", ")}` : "nobody is at work";
  put(find("span", paragraph),
    `${whole(progress.done)} of ${whole(progress.streams)} streams, ${whole(progress.refused)} refused${left}; ${workers}`);
}

async function look() {
  try {
    const reply = await fetch("status.json", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
    if (!reply.ok) throw new Error(`it answered ${reply.status}`);
    const seen = await reply.json();
    const taken = find("#taken");
    taken.dateTime = new Date(seen.taken_at * 1000).toISOString();
    put(taken, new Date(seen.taken_at * 1000).toLocaleTimeString());
    for (const projection of seen.projections) show(projection, seen.taken_at);
    const several = seen.projections.length > 1;
    const concerns = seen.projections.flatMap((projection) =>
      projection.concerns.map((text) => (several ? `${projection.name}: ${text}` : text)));
    // Replicas tell of their problems to each other; while nobody can hear them, this one still can.
    const problems = concerns.length ? [] : seen.problems.map((text) => `This worker is not ready: ${text}`);
    verdict(seen.fine ? "All is well" : "Something is wrong", [...new Set([...concerns, ...problems])], seen.fine);
  } catch (error) {
    verdict("The worker does not answer", [`What is below is old. ${error.message}`], false);
  }
  setTimeout(look, EVERY_MS);
}

look();
