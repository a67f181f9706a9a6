// Security keys: between the JSON of the proxy and what browsers take and give. Bytes travel as base64url.
"use strict";

function bytesOf(text) {
  const plain = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
  return Uint8Array.from(plain, (character) => character.charCodeAt(0));
}

function textOf(buffer) {
  if (!buffer) return "";
  const plain = btoa(String.fromCharCode(...new Uint8Array(buffer)));
  return plain.replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

function listed(credentials) {
  return (credentials || []).map((one) => ({ type: one.type, id: bytesOf(one.id) }));
}

// What a browser says when a key did not answer names nothing useful, on purpose.
function keyProblem(error) {
  if (error.name === "InvalidStateError") return new Error("This security key is registered already.");
  if (error.name === "NotSupportedError") return new Error("This security key cannot be used here.");
  if (error.name === "SecurityError") return new Error("Security keys work only under the name of this cluster.");
  return new Error("No security key answered. Plug it in, touch it when it blinks, and try again.");
}

const securityKeys = {
  available: Boolean(window.PublicKeyCredential && navigator.credentials),

  async create(options) {
    const asked = options.publicKey;
    let made;
    try {
      made = await navigator.credentials.create({
        publicKey: {
          ...asked,
          challenge: bytesOf(asked.challenge),
          user: { ...asked.user, id: bytesOf(asked.user.id) },
          excludeCredentials: listed(asked.excludeCredentials),
        },
      });
    } catch (error) {
      throw keyProblem(error);
    }
    return {
      id: textOf(made.rawId),
      type: made.type,
      response: {
        clientDataJSON: textOf(made.response.clientDataJSON),
        attestationObject: textOf(made.response.attestationObject),
      },
    };
  },

  async sign(options) {
    const asked = options.publicKey;
    let made;
    try {
      made = await navigator.credentials.get({
        publicKey: {
          ...asked, challenge: bytesOf(asked.challenge), allowCredentials: listed(asked.allowCredentials),
        },
      });
    } catch (error) {
      throw keyProblem(error);
    }
    return {
      id: textOf(made.rawId),
      type: made.type,
      response: {
        clientDataJSON: textOf(made.response.clientDataJSON),
        authenticatorData: textOf(made.response.authenticatorData),
        signature: textOf(made.response.signature),
        userHandle: textOf(made.response.userHandle),
      },
    };
  },
};
