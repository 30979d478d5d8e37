
const box = document.getElementById("search"), found = document.getElementById("found");
const entries = [...document.querySelectorAll(".entry")].map(entry => [entry, entry.textContent.toLowerCase()]);
box.addEventListener("input", () => {
  const words = box.value.toLowerCase().split(/\s+/);
  for (const [entry, text] of entries) entry.hidden = !words.every(word => text.includes(word));
  const shown = entries.filter(([entry]) => !entry.hidden).length;
  found.textContent = box.value.trim() ? `${shown} of ${entries.length} entries` : "";
});
