"use strict";
// Follows the server live, and asks once more before an action. Everything is readable without it.
(() => {
  const REFRESH_MS = 3000;
  const byId = (id) => document.getElementById(id);

  // Figures: the page is fetched again, and the parts that are marked are put in the place of the old ones.
  let refreshing = false;
  async function refresh() {
    if (refreshing || document.hidden) return;
    refreshing = true;
    try {
      const answer = await fetch(location.href, { headers: { "x-live": "1", accept: "text/html" } });
      if (answer.redirected) return location.reload();
      if (!answer.ok) throw new Error(String(answer.status));
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const part of document.querySelectorAll("[data-live]")) {
        const newer = fresh.getElementById(part.id);
        const inUse = part.contains(document.activeElement) || part.querySelector("details[open]");
        if (newer && !inUse && newer.innerHTML !== part.innerHTML) part.innerHTML = newer.innerHTML;
      }
      connected(true);
    } catch {
      connected(false);
    } finally {
      refreshing = false;
    }
  }

  function connected(is) {
    const link = byId("link");
    if (link) link.textContent = is ? "" : link.dataset.textLost;
  }

  // What tables and tenants are called. Without it lines have identifiers and numbers alone.
  async function called() {
    try {
      const answer = await fetch("/names", { signal: AbortSignal.timeout(3000) });
      if (answer.ok) return await answer.json();
    } catch {}
    return { tables: {}, companies: {}, customers: {} };
  }

  // Activity: entries arrive by the event stream, and stand at the top of the list at the next frame.
  async function follow(list) {
    const template = byId("entry");
    const words = JSON.parse(template.dataset.words);
    const names = await called();
    const max = Number(list.dataset.max);
    const url = new URL(list.dataset.stream, location.href);
    url.searchParams.set("after", list.dataset.after);
    let waiting = [];
    let planned = false;
    let paused = false;

    function show() {
      planned = false;
      if (paused) return held();
      const fragment = document.createDocumentFragment();
      for (const entry of waiting.reverse()) fragment.append(line(entry, template, words, names));
      waiting = [];
      list.prepend(fragment);
      while (list.children.length > max) list.lastElementChild.remove();
      const quiet = byId("quiet");
      if (quiet) quiet.hidden = true;
    }

    function held() {
      const text = byId("held");
      if (text) text.textContent = waiting.length ? waiting.length + " new" : "";
    }

    const source = new EventSource(url);
    source.addEventListener("open", () => connected(true));
    source.addEventListener("error", () => connected(false));
    source.addEventListener("message", (event) => {
      waiting.push(JSON.parse(event.data));
      if (waiting.length > max) waiting.shift();
      if (!planned) {
        planned = true;
        document.hidden ? setTimeout(show, 500) : requestAnimationFrame(show);
      }
    });

    const pause = byId("pause");
    if (pause) {
      const text = pause.textContent;
      pause.addEventListener("click", () => {
        paused = !paused;
        pause.setAttribute("aria-pressed", String(paused));
        pause.textContent = paused ? pause.dataset.textGo : text;
        if (!paused) {
          show();
          held();
        }
      });
    }
  }

  // A name that somebody typed, beside what it names.
  function call(place, name) {
    if (!name) return place.remove();
    place.textContent = place.title = name;
  }

  function line(entry, template, words, names) {
    const item = template.content.cloneNode(true).firstElementChild;
    const part = (selector) => item.querySelector(selector);
    item.dataset.id = entry.id;
    item.classList.add("new");
    part("time").dateTime = entry.at;
    part("time").title = entry.at;
    part("time").textContent = entry.at.slice(11, 19);
    part(".act").textContent = words[entry.action] || entry.action;
    part(".act").classList.add("a-" + entry.action);
    part(".table").textContent = entry.table_name || "";
    part(".why").textContent = entry.reason;
    const tenant = entry.company_no === null ? entry.customer_no : entry.company_no;
    if (tenant !== null) part(".tenant").prepend((entry.company_no === null ? "customer " : "company ") + tenant + " ");
    const owners = entry.company_no === null ? names.customers : names.companies;
    call(part(".row .called"), Object.hasOwn(names.tables, entry.table_name) && names.tables[entry.table_name]);
    call(part(".tenant .called"), owners[tenant]);
    const link = part("a");
    if (entry.key) {
      const query = new URLSearchParams();
      if (entry.company_no !== null) query.append("company", entry.company_no);
      if (entry.customer_no !== null) query.append("customer", entry.customer_no);
      for (const [name, value] of Object.entries(entry.key)) query.append(name, value);
      part("b").textContent = Object.values(entry.key).join(" / ");
      link.href = "/rows/" + encodeURIComponent(entry.table_name) + "?" + query;
    } else {
      link.replaceWith(...link.childNodes);
    }
    return item;
  }

  // Actions: asked about once more, then sent; what came of it is told at the foot of the page.
  const ask = byId("ask");
  let chosen = null;
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-url]");
    if (!button || button.disabled) return;
    chosen = { ...button.dataset };
    byId("ask-text").textContent = chosen.ask;
    byId("ask-yes").textContent = chosen.yes;
    ask.returnValue = "no";
    ask.showModal();
  });
  if (ask) {
    ask.addEventListener("close", async () => {
      if (ask.returnValue !== "yes" || !chosen) return;
      const { method, url, body, told } = chosen;
      chosen = null;
      const request = { method, headers: { accept: "application/json" } };
      if (body) request.body = body;
      try {
        const answer = await fetch(url, request);
        const said = await answer.json();
        tell(answer.ok ? told : said.error);
      } catch {
        tell("The daemon does not answer.");
      }
      if (document.activeElement) document.activeElement.blur();
      refresh();
    });
  }

  let hiding = 0;
  function tell(text) {
    const told = byId("told");
    told.textContent = text;
    told.hidden = false;
    clearTimeout(hiding);
    hiding = setTimeout(() => (told.hidden = true), 6000);
  }

  const list = byId("activity");
  if (list) follow(list);
  if (document.querySelector("[data-live]")) {
    setInterval(refresh, REFRESH_MS);
    document.addEventListener("visibilitychange", refresh);
  }
})();
