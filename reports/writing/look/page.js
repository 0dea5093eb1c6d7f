"use strict";
// What belongs to the whole page: theme, keys' help, copies of tables, paper.
const byId = (id) => document.getElementById(id);
for (const one of document.querySelectorAll("[data-needs-script]")) one.hidden = false;

const page = {
  toggleTheme() {
    theme.set(theme.now() === "dark" ? "light" : "dark");
    this.sayTheme();
  },
  sayTheme() { byId("theme_button").textContent = theme.now() === "dark" ? "Light" : "Dark"; },
  help() { if (!byId("help_dialog").open) byId("help_dialog").showModal(); },
  // Keys do nothing while one types.
  typing(event) {
    return event.ctrlKey || event.metaKey || event.altKey
      || Boolean(event.target.closest?.("input:not([type=checkbox]), select, textarea, [contenteditable]"));
  },
};
page.sayTheme();
byId("theme_button").addEventListener("click", () => page.toggleTheme());
byId("help_button").addEventListener("click", () => page.help());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => page.sayTheme());
document.addEventListener("keydown", (event) => {
  if (page.typing(event)) return;
  if (event.key === "d") page.toggleTheme();
  else if (event.key === "?" && !document.querySelector("dialog[open]")) page.help();
  else return;
  event.preventDefault();
});

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Browsers that keep the clipboard from files.
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    if (!done) throw new Error("not copied");
  }
}
let texts = null;
document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-copy]");
  if (!button) return;
  texts ??= JSON.parse(byId("table_texts").textContent);
  const name = button.textContent;
  try {
    await copy(texts[button.dataset.table][button.dataset.copy]);
    button.textContent = "copied";
  } catch {
    button.textContent = "not allowed";
  }
  button.focus();
  setTimeout(() => { button.textContent = name; }, 1200);
});

// What is folded is open on paper.
const folded = [];
addEventListener("beforeprint", () => {
  for (const one of document.querySelectorAll("details:not([open])")) { one.open = true; folded.push(one); }
});
addEventListener("afterprint", () => { while (folded.length) folded.pop().open = false; });
