// What the pages share: finding elements, asking the proxy, saying what went wrong.
"use strict";

const $ = (id) => document.getElementById(id);

function problem(text) {
  $("problem").textContent = text;
  $("problem").hidden = !text;
}

function csrf() {
  const found = document.cookie.split("; ").find((part) => part.startsWith("__Host-grv_csrf="));
  return found ? found.slice("__Host-grv_csrf=".length) : "";
}

function base64(text) {
  return btoa(String.fromCharCode(...new TextEncoder().encode(text)));
}

async function ask(method, path, body) {
  const response = await fetch(path, method === "GET" ? {} : {
    method,
    headers: { "Content-Type": "application/json", "X-CSRF-Token": csrf() },
    body: JSON.stringify(body || {}),
  });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) {
    const error = new Error(answer.error ? answer.error.message : "the proxy did not answer");
    error.gone = response.status === 404;
    throw error;
  }
  return answer;
}
