// The page behind an invitation or reset link: sets a password and a second factor, once.
"use strict";

const $ = (id) => document.getElementById(id);
const token = window.location.pathname.split("/").pop();
let wantsCode = false;

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

async function answer(response) {
  const body = await response.json().catch(() => ({}));
  if (!response.ok) {
    const error = new Error(body.error ? body.error.message : "the proxy did not answer");
    error.gone = response.status === 404;
    throw error;
  }
  return body;
}

async function load() {
  try {
    const info = await answer(await fetch(`/webapi/users/password/token/${encodeURIComponent(token)}`));
    $("title").textContent = info.kind === "reset" ? "Choose a new password" : `Welcome to ${info.cluster}`;
    $("user").value = $("name").textContent = info.user;
    $("host").textContent = window.location.host;
    wantsCode = Boolean(info.qr);
    if (wantsCode) {
      $("qr").src = `data:image/png;base64,${info.qr}`;
      $("secret").textContent = info.totp_secret;
      $("totp").hidden = false;
      $("code").required = true;
    }
    $("form").hidden = false;
    $("password").focus();
  } catch (error) {
    $("title").textContent = "This link cannot be used";
    problem(error.gone ? `${error.message}. Ask an administrator for a new one.` : error.message);
  }
}

$("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  problem("");
  if ($("password").value !== $("again").value) {
    problem("The two passwords differ.");
    $("again").focus();
    return;
  }
  $("send").disabled = true;
  try {
    await answer(await fetch("/webapi/users/password/token", {
      method: "PUT",
      headers: { "Content-Type": "application/json", "X-CSRF-Token": csrf() },
      body: JSON.stringify({
        token,
        password: base64($("password").value),
        second_factor_token: wantsCode ? $("code").value : "",
      }),
    }));
    $("form").reset();
    $("form").hidden = true;
    $("title").textContent = "Done";
    $("done").hidden = false;
  } catch (error) {
    problem(error.message);
    $("code").value = "";
  } finally {
    $("send").disabled = false;
  }
});

load();
