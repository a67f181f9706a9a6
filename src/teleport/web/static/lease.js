// The page behind the link that ssh shows: a security key approves that plain ssh is not asked for a while.
"use strict";

const $ = (id) => document.getElementById(id);
const where = `/webapi/mfa/lease/${encodeURIComponent(window.location.pathname.split("/").pop())}`;
let asked = null;

function problem(text) {
  $("problem").textContent = text;
  $("problem").hidden = !text;
}

function over(text) {
  $("form").hidden = true;
  $("title").textContent = "This link cannot be used";
  problem(`${text}. Connect again: ssh shows another link.`);
}

function csrf() {
  const found = document.cookie.split("; ").find((part) => part.startsWith("__Host-grv_csrf="));
  return found ? found.slice("__Host-grv_csrf=".length) : "";
}

function bytes(text) {
  const padded = text.replace(/-/g, "+").replace(/_/g, "/");
  return Uint8Array.from(atob(padded), (char) => char.charCodeAt(0));
}

function base64url(buffer) {
  const text = btoa(String.fromCharCode(...new Uint8Array(buffer)));
  return text.replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
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
    asked = await answer(await fetch(where));
    $("title").textContent = "Approve ssh";
    $("user").textContent = asked.user;
    $("cluster").textContent = asked.cluster;
    $("address").textContent = asked.client_addr;
    $("key").textContent = asked.key_fingerprint;
    $("until").textContent = new Date(asked.until).toLocaleString();
    $("form").hidden = false;
  } catch (error) {
    over(error.message);
  }
}

async function touched() {
  const options = asked.webauthn_challenge.publicKey;
  const found = await navigator.credentials.get({
    publicKey: {
      ...options,
      challenge: bytes(options.challenge),
      allowCredentials: options.allowCredentials.map((one) => ({ ...one, id: bytes(one.id) })),
    },
  });
  return {
    id: found.id,
    rawId: base64url(found.rawId),
    type: found.type,
    response: {
      authenticatorData: base64url(found.response.authenticatorData),
      clientDataJSON: base64url(found.response.clientDataJSON),
      signature: base64url(found.response.signature),
      userHandle: found.response.userHandle ? base64url(found.response.userHandle) : "",
    },
  };
}

$("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  problem("");
  $("send").disabled = true;
  try {
    const signed = await touched();
    await answer(await fetch(where, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-CSRF-Token": csrf() },
      body: JSON.stringify({ challenge_id: asked.challenge_id, webauthn_challenge_response: signed }),
    }));
    $("form").hidden = true;
    $("title").textContent = "Done";
    $("done").hidden = false;
  } catch (error) {
    if (error.gone) {
      over(error.message);
    } else {
      problem(error.name === "NotAllowedError" ? "No security key answered. Try again." : error.message);
    }
  } finally {
    $("send").disabled = false;
  }
});

load();
