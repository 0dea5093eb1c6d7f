"use strict";
// Questions to browse. Data comes from JSON and goes into the page as text alone.
if (document.getElementById("gallery_app")) (() => {
  const STEP = 24;
  const PREFIX = "#gallery:";
  const KINDS = { "false yes": "bad", "missed": "bad", "wrong answer": "bad", "unparsed": "odd", "right": "good" };
  const FIELDS = ["q", "run", "split", "kind", "category", "size", "order"];
  const data = JSON.parse(byId("gallery_items").textContent);
  const files = JSON.parse(byId("gallery_pictures").textContent);
  const { texts, columns } = data;
  const app = byId("gallery_app");
  const form = byId("gallery_form");
  const list = byId("gallery_cards");
  const dialog = byId("card_dialog");
  const field = (name) => form.elements.namedItem(name);
  const text = (name, item) => (columns[name][item] < 0 ? null : texts[columns[name][item]]);
  let found = [];
  let shown = 0;
  let large = -1;
  let haystacks = null;

  function el(tag, className, content) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (content !== undefined) made.textContent = content;
    return made;
  }

  // ---- filters

  function counted(name) {
    const counts = new Map();
    for (const place of columns[name] ?? []) counts.set(place, (counts.get(place) ?? 0) + 1);
    return [...counts].map(([place, count]) => [texts[place], count]);
  }
  function option(value, label) {
    const made = el("option", "", label);
    made.value = value;
    return made;
  }
  function fill(name, column, order) {
    const values = counted(column);
    if (order) values.sort((a, b) => order.indexOf(a[0]) - order.indexOf(b[0]));
    const select = field(name);
    select.append(option("", "all"));
    for (const [value, count] of values) select.append(option(value, `${value} (${count.toLocaleString("en")})`));
    select.closest("label").hidden = values.length < 2;
  }
  fill("run", "run");
  fill("split", "split");
  fill("kind", "kind");
  fill("size", "band", data.bands);
  const categories = counted("category").sort((a, b) => (a[0] < b[0] ? -1 : 1));
  byId("category_list").append(...categories.map(([value, count]) => option(value, `${count.toLocaleString("en")} questions`)));
  const isCategory = new Set(categories.map(([value]) => value));

  function fitting(state) {
    const place = (value) => (value ? texts.indexOf(value) : null);
    const wanted = [["run", place(state.run)], ["split", place(state.split)], ["kind", place(state.kind)], ["band", place(state.size)]]
      .filter(([, value]) => value !== null);
    // A category's whole name, else a part of one.
    let names = null;
    if (state.category) {
      const part = state.category.toLowerCase();
      const fits = isCategory.has(state.category)
        ? [state.category] : categories.map(([name]) => name).filter((name) => name.toLowerCase().includes(part));
      names = new Set(fits.map((name) => texts.indexOf(name)));
    }
    const words = state.q.toLowerCase();
    if (words && !haystacks) {
      haystacks = Array.from({ length: data.count }, (_, item) =>
        `${text("question", item)}\n${text("answer", item) ?? ""}\n${text("image", item)}`.toLowerCase());
    }
    const order = data.orders[state.order] ?? Array.from({ length: data.count }, (_, item) => item);
    return order.filter((item) => wanted.every(([name, value]) => columns[name][item] === value)
      && (!names || names.has(columns.category[item]))
      && (!words || haystacks[item].includes(words)));
  }

  // ---- state, kept in the address

  function state() {
    return Object.fromEntries(FIELDS.map((name) => [name, field(name).value]));
  }
  function address(now) {
    const given = new URLSearchParams();
    for (const name of FIELDS) if (now[name] && !(name === "order" && now[name] === "worst")) given.set(name, now[name]);
    return PREFIX + given.toString();
  }
  function fromAddress() {
    if (!location.hash.startsWith(PREFIX)) return false;
    const given = new URLSearchParams(location.hash.slice(PREFIX.length));
    for (const name of FIELDS) {
      const box = field(name);
      const value = given.get(name) ?? (name === "order" ? "worst" : "");
      // A value that this report lacks finds nothing, and is to be seen.
      if (box.tagName === "SELECT" && ![...box.options].some((one) => one.value === value)) {
        box.append(option(value, `${value} (0)`));
        box.closest("label").hidden = false;
      }
      box.value = value;
    }
    return true;
  }
  function apply() {
    const now = state();
    found = fitting(now);
    shown = 0;
    list.replaceChildren();
    more();
    byId("gallery_count").textContent = `${found.length.toLocaleString("en")} of ${data.count.toLocaleString("en")}`;
    byId("clear_button").hidden = FIELDS.every((name) => name === "order" || !now[name]);
  }
  let wait = 0;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", (event) => {
    if (!FIELDS.includes(event.target.name)) return;
    const typed = event.target.tagName === "INPUT";
    clearTimeout(wait);
    wait = setTimeout(() => {
      const next = address(state());
      if (next !== location.hash) {
        // Back goes from filter to filter, not from letter to letter.
        if (typed && location.hash.startsWith(PREFIX)) history.replaceState(null, "", next);
        else history.pushState(null, "", next);
      }
      apply();
    }, typed ? 120 : 0);
  });
  byId("clear_button").addEventListener("click", () => {
    for (const name of FIELDS) if (name !== "order") field(name).value = "";
    history.pushState(null, "", address(state()));
    apply();
    field("q").focus();
  });
  addEventListener("popstate", () => { if (fromAddress()) apply(); });

  // ---- cards

  function picture(item) {
    const place = columns.picture[item];
    if (place < 0) return el("div", "frame none", "no picture");
    const [kind, width, height, bytes] = files.pictures[place];
    const frame = el("div", "frame");
    const box = el("div", width / height > 4 / 3 ? "box broad" : "box");
    box.style.aspectRatio = `${width} / ${height}`;
    const layer = (name, type, base, alt) => {
      const made = el("img", name);
      made.alt = alt;
      made.decoding = "async";
      made.src = `data:image/${type};base64,${base}`;
      box.append(made);
    };
    layer("photo", kind, bytes, text("image", item));
    if (columns.overlay[item] >= 0) {
      const [attention, mask] = files.overlays[columns.overlay[item]];
      layer("attention", "png", attention, "");
      if (mask) layer("mask", "png", mask, "");
    }
    frame.append(box);
    return frame;
  }
  function bars(item) {
    const pairs = data.logprobs[item];
    if (!pairs.length) return null;
    const made = el("div", "bars");
    for (let at = 0; at < pairs.length; at += 2) {
      const value = texts[pairs[at + 1]];
      const bar = el("span", "bar");
      const fill = el("span", "fill");
      const share = Math.exp(Number(value));
      fill.style.width = `${Number.isFinite(share) ? Math.min(100, 100 * share) : 0}%`;
      bar.append(fill);
      made.append(el("bdi", "", texts[pairs[at]]), bar, el("span", "value", value));
    }
    return made;
  }
  function row(name, content, className) {
    const value = el("dd", className);
    value.dir = "auto";
    if (content instanceof Node) value.append(content);
    else value.textContent = content;
    return [el("dt", "", name), value];
  }
  function card(item, tag) {
    const made = el(tag, "card");
    const kind = text("kind", item);
    const head = el("p", "head");
    head.append(el("span", `badge ${KINDS[kind] ?? "odd"}`, kind), el("bdi", "run", text("run", item)));
    const question = el("h3", "question", text("question", item));
    question.dir = "auto";
    const facts = el("dl", "facts");
    const answer = text("answer", item);
    facts.append(...row("Official", text("official", item)));
    facts.append(...row("Answer", answer ?? "none", answer === null ? "answer quiet" : "answer"));
    facts.append(...row("Read as", text("read", item)));
    const likely = bars(item);
    if (likely) facts.append(...row("Log p", likely));
    if (text("margin", item) !== null) facts.append(...row("Margin", `${text("margin", item)} nats`));
    const number = text("number", item);
    const where = [text("split", item), text("category", item), /^\d+$/.test(number) ? `no. ${number}` : number];
    if (text("size", item) !== null) where.push(`object ${text("size", item)} of the image`);
    const foot = el("p", "foot");
    for (const one of where) if (one) foot.append(el("bdi", "", one));
    const name = el("p", "foot file");
    name.append(el("bdi", "", text("image", item)));
    // Where the report has no pictures at all, it need not be said on every card.
    if (files.pictures.length) made.append(picture(item));
    made.append(head, question, facts, foot, name);
    if (columns.overlay[item] >= 0) made.append(el("p", "foot", files.overlays[columns.overlay[item]][2]));
    return made;
  }
  function more() {
    const next = document.createDocumentFragment();
    const end = Math.min(found.length, shown + STEP);
    for (let place = shown; place < end; place += 1) {
      const made = card(found[place], "li");
      made.dataset.place = place;
      made.tabIndex = 0;
      next.append(made);
    }
    list.append(next);
    shown = end;
    byId("more_button").hidden = shown >= found.length;
  }
  byId("more_button").addEventListener("click", () => {
    const first = shown;
    more();
    list.children[first]?.focus();
  });
  const end = new IntersectionObserver((entries) => {
    if (!entries.some((one) => one.isIntersecting) || shown >= found.length) return;
    more();
    // Looked at anew: it may still be in sight.
    end.unobserve(byId("more_button"));
    end.observe(byId("more_button"));
  }, { rootMargin: "400px" });
  end.observe(byId("more_button"));

  // ---- large, keys

  function open(place) {
    if (place < 0 || place >= found.length) return;
    large = place;
    while (place >= shown) more();
    const close = el("button", "close", "Close");
    close.type = "button";
    close.addEventListener("click", () => dialog.close());
    const at = el("p", "at", `${(place + 1).toLocaleString("en")} of ${found.length.toLocaleString("en")}`);
    const step = (name, by) => {
      const button = el("button", "", name);
      button.type = "button";
      button.disabled = !found[place + by] && found[place + by] !== 0;
      button.addEventListener("click", () => open(place + by));
      return button;
    };
    const bar = el("div", "bar-top");
    bar.append(step("Previous", -1), at, step("Next", 1), close);
    dialog.replaceChildren(bar, card(found[place], "article"));
    dialog.setAttribute("aria-label", `Question ${at.textContent}`);
    if (!dialog.open) dialog.showModal();
    // Not on a button, which the next question would take away.
    dialog.focus();
  }
  dialog.tabIndex = -1;
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => list.children[large]?.focus());
  list.addEventListener("click", (event) => {
    const box = event.target.closest(files.pictures.length ? ".frame" : ".question");
    if (box) open(Number(box.closest("li").dataset.place));
  });

  const attention = byId("attention_box");
  const mask = byId("mask_box");
  const opacity = byId("opacity_range");
  function overlays() {
    document.body.classList.toggle("no-attention", !attention.checked);
    document.body.classList.toggle("no-mask", !mask.checked);
    document.body.style.setProperty("--attention", Number(opacity.value) / 100);
  }
  for (const box of [attention, mask, opacity]) box.addEventListener("input", overlays);
  overlays();
  attention.closest("fieldset").hidden = !files.overlays.length;

  function go(by) {
    if (dialog.open) {
      open(large + by);
      return;
    }
    const at = document.activeElement.closest?.("#gallery_cards > li");
    const place = at ? Number(at.dataset.place) + by : 0;
    while (place >= shown && shown < found.length) more();
    const next = list.children[Math.max(0, place)];
    next?.focus();
    next?.scrollIntoView({ block: "nearest" });
  }
  const steps = { j: 1, ArrowRight: 1, ArrowDown: 1, k: -1, ArrowLeft: -1, ArrowUp: -1 };
  document.addEventListener("keydown", (event) => {
    if (page.typing(event) || byId("help_dialog").open) return;
    const at = document.activeElement.closest?.("#gallery_cards > li");
    const arrow = event.key.startsWith("Arrow");
    if (event.key === "/" && !dialog.open) {
      app.scrollIntoView();
      field("q").focus();
    } else if (event.key in steps && (!arrow || at || dialog.open)) go(steps[event.key]);
    else if ((event.key === "Enter" || event.key === "o") && at && event.target === at) open(Number(at.dataset.place));
    else if (event.key === "a") attention.click();
    else if (event.key === "m") mask.click();
    else return;
    event.preventDefault();
  });

  const asked = fromAddress();
  apply();
  if (asked) byId("gallery_part").scrollIntoView({ behavior: "instant" });
})();
