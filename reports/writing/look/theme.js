"use strict";
// Before anything is drawn: the theme that was chosen last time.
const theme = {
  stored() {
    try { return localStorage.getItem("agevlm-report-theme"); } catch { return null; }
  },
  now() {
    return document.documentElement.dataset.theme
      || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  },
  set(name) {
    document.documentElement.dataset.theme = name;
    try { localStorage.setItem("agevlm-report-theme", name); } catch { /* not remembered, then */ }
  },
};
if (["dark", "light"].includes(theme.stored())) document.documentElement.dataset.theme = theme.stored();
