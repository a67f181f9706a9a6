// The page behind the link that ssh shows: a security key approves that plain ssh is not asked for a while.
"use strict";

const where = `/webapi/mfa/lease/${encodeURIComponent(window.location.pathname.split("/").pop())}`;
let asked = null;

function over(text) {
  $("form").hidden = true;
  $("title").textContent = "This link cannot be used";
  problem(`${text}. Connect again: ssh shows another link.`);
}

async function load() {
  try {
    asked = await ask("GET", where);
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

$("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  problem("");
  $("send").disabled = true;
  try {
    if (!securityKeys.available) throw new Error("This browser knows no security keys. Use another one.");
    const signed = await securityKeys.sign(asked.webauthn_challenge);
    await ask("POST", where, { challenge_id: asked.challenge_id, webauthn_challenge_response: signed });
    $("form").hidden = true;
    $("title").textContent = "Done";
    $("done").hidden = false;
  } catch (error) {
    if (error.gone) {
      over(error.message);
    } else {
      problem(error.message);
    }
  } finally {
    $("send").disabled = false;
  }
});

load();
