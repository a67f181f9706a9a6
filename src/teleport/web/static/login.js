// The page on which a login that tsh has begun is answered: password, and a code or a security key.
"use strict";

const login = encodeURIComponent(window.location.pathname.split("/").pop());

async function load() {
  try {
    const [info, ping] = await Promise.all([ask("GET", `/webapi/login/browser/${login}`), ask("GET", "/webapi/ping")]);
    const setting = ping.auth ? ping.auth.second_factor : "otp";
    $("title").textContent = `Log in to ${ping.cluster_name}`;
    $("where").textContent = info.client_addr;
    $("totp").hidden = !["otp", "on", "optional"].includes(setting);
    $("code").required = setting === "otp";
    $("key").hidden = !["webauthn", "u2f", "on", "optional"].includes(setting);
    $("passkey").hidden = !(ping.auth && ping.auth.allow_passwordless && securityKeys.available);
    $("send").hidden = setting === "webauthn" || setting === "u2f";
    $("form").hidden = false;
    $("check").focus();
  } catch (error) {
    $("title").textContent = "This link cannot be used";
    problem(error.message);
  }
}

async function signed(path, body) {
  if (!securityKeys.available) throw new Error("This browser knows no security keys. Use another one.");
  const asked = await ask("POST", path, body);
  const answer = await securityKeys.sign(asked.webauthn_challenge);
  return { challenge_id: asked.challenge_id, webauthn_challenge_response: answer };
}

// What is proved besides the code of tsh: by typing, with a security key, or by a passkey alone.
async function proved(how) {
  if (how === "passkey") return { passwordless: true, ...(await signed("/webapi/mfa/login/passkey", {})) };
  const user = $("user").value;
  const typed = { user, password: $("password").value };
  if (how === "key") return { ...typed, ...(await signed("/webapi/mfa/login/begin", { user })) };
  return { ...typed, otp_token: $("code").value.replaceAll(" ", "") };
}

function busy(now) {
  for (const id of ["send", "key", "passkey"]) $(id).disabled = now;
}

async function send(how) {
  problem("");
  busy(true);
  try {
    await ask("POST", `/webapi/login/browser/${login}`, { code: $("check").value, ...(await proved(how)) });
    $("form").reset();
    $("form").hidden = true;
    $("title").textContent = "Done";
    $("done").hidden = false;
  } catch (error) {
    problem(error.message);
    $("code").value = "";
  } finally {
    busy(false);
  }
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  send($("send").hidden ? "key" : "typed");
});
$("key").addEventListener("click", () => {
  $("code").required = false;
  if ($("form").reportValidity()) send("key");
});
$("passkey").addEventListener("click", () => {
  if ($("check").reportValidity()) send("passkey");
});

load();
