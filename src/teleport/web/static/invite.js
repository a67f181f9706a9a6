// The page behind an invitation or reset link: sets a password and a second factor, once.
"use strict";

const token = window.location.pathname.split("/").pop();
const link = encodeURIComponent(token);
// what each setting offers; the first is chosen at the start
const OFFERS = {
  off: ["none"], otp: ["app"], webauthn: ["key"], on: ["app", "key"], optional: ["app", "key", "none"],
};
let offers = ["none"];

function chosen() {
  const picked = document.querySelector("input[name=factor]:checked");
  return picked ? picked.value : offers[0];
}

function choose() {
  const factor = chosen();
  $("totp").hidden = factor !== "app";
  $("code").required = factor === "app";
  $("key").hidden = factor !== "key";
}

async function load() {
  try {
    const info = await ask("GET", `/webapi/users/password/token/${link}`);
    $("title").textContent = info.kind === "reset" ? "Choose a new password" : `Welcome to ${info.cluster}`;
    $("user").value = $("name").textContent = info.user;
    $("host").textContent = window.location.host;
    offers = OFFERS[info.second_factor] || ["app"];
    if (info.qr) {
      $("qr").src = `data:image/png;base64,${info.qr}`;
      $("secret").textContent = info.totp_secret;
    }
    $("choice").hidden = offers.length < 2;
    for (const input of document.querySelectorAll("input[name=factor]")) {
      input.parentElement.hidden = !offers.includes(input.value);
      input.checked = input.value === offers[0];
      input.addEventListener("change", choose);
    }
    choose();
    $("form").hidden = false;
    $("password").focus();
  } catch (error) {
    $("title").textContent = "This link cannot be used";
    problem(error.gone ? `${error.message}. Ask an administrator for a new one.` : error.message);
  }
}

async function registered() {
  if (!securityKeys.available) throw new Error("This browser knows no security keys. Use another one.");
  const asked = await ask("POST", `/webapi/mfa/token/${link}/registerchallenge`);
  const made = await securityKeys.create(asked.webauthn);
  return { challenge_id: asked.challenge_id, webauthn_creation_response: made };
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
    const factor = chosen();
    await ask("PUT", "/webapi/users/password/token", {
      token,
      password: base64($("password").value),
      second_factor_token: factor === "app" ? $("code").value : "",
      ...(factor === "key" ? await registered() : {}),
    });
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
