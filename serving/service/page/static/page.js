// Sliders answer live: the part of the page that they change is asked for again. Without this script the button does it.
"use strict";
const form = document.getElementById("ask");
const part = document.getElementById("part");
if (form && part) {
  let asked = 0;
  let timer = 0;
  const ask = async () => {
    const number = ++asked;
    const address = new URLSearchParams(new FormData(form)).toString();
    part.classList.add("busy");
    try {
      const answer = await fetch(form.dataset.part + "?" + address);
      const text = await answer.text();
      if (number === asked && answer.headers.get("Content-Type").startsWith("text/html")) { // an error says what it is
        part.innerHTML = text; // written by the server, which escapes every title
        history.replaceState(null, "", "?" + address);
      }
    } finally {
      if (number === asked) part.classList.remove("busy");
    }
  };
  form.addEventListener("input", (event) => {
    const output = event.target.parentElement.querySelector("output");
    if (output) output.value = event.target.value;
    clearTimeout(timer);
    timer = setTimeout(ask, 150);
  });
}
