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
    $("send").hidden = setting === "webauthn" || setting === "u2f";
    $("form").hidden = false;
    $("check").focus();
  } catch (error) {
    $("title").textContent = "This link cannot be used";
    problem(error.message);
  }
}

async function signed() {
  if (!securityKeys.available) throw new Error("This browser knows no security keys. Use another one.");
  const asked = await ask("POST", "/webapi/mfa/login/begin", { user: $("user").value });
  const answer = await securityKeys.sign(asked.webauthn_challenge);
  return { challenge_id: asked.challenge_id, webauthn_challenge_response: answer };
}

async function send(withKey) {
  problem("");
  $("send").disabled = $("key").disabled = true;
  try {
    await ask("POST", `/webapi/login/browser/${login}`, {
      code: $("check").value,
      user: $("user").value,
      password: $("password").value,
      otp_token: withKey ? "" : $("code").value.replaceAll(" ", ""),
      ...(withKey ? await signed() : {}),
    });
    $("form").reset();
    $("form").hidden = true;
    $("title").textContent = "Done";
    $("done").hidden = false;
  } catch (error) {
    problem(error.message);
    $("code").value = "";
  } finally {
    $("send").disabled = $("key").disabled = false;
  }
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  send($("send").hidden);
});
$("key").addEventListener("click", () => {
  $("code").required = false;
  if ($("form").reportValidity()) send(true);
});

load();
