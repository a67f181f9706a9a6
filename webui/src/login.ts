// Logging in: with a code, by a security key's answer to a challenge, or with a passkey alone.
import { ask, begun, type Session } from "./api";
import { type AssertionOptions, signWithKey } from "./webauthn";

export interface Challenge {
  challenge_id: string;
  webauthn_challenge: AssertionOptions | null;
}

export interface KeyAnswer {
  challenge_id?: string;
  webauthn_challenge_response?: object;
}

// What a security key says to a challenge that the proxy makes at `path`.
export async function keyAnswer(path: string, body: object, open: boolean): Promise<KeyAnswer> {
  const asked = await ask<Challenge>("POST", path, body, { open });
  if (!asked.webauthn_challenge) throw new Error("No security key counts here.");
  const response = await signWithKey(asked.webauthn_challenge);
  return { challenge_id: asked.challenge_id, webauthn_challenge_response: response };
}

export async function logIn(user: string, password: string, proof: { code?: string; key?: boolean }): Promise<void> {
  const answer = proof.key ? await keyAnswer("/webapi/mfa/login/begin", { user }, true) : {};
  const body = { user, pass: password, second_factor_token: proof.code ?? "", ...answer };
  begun(await ask<Session>("POST", "/webapi/sessions/web", body, { open: true }));
}

// Whoever the passkey says that it is: neither a name nor a password is asked.
export async function logInWithPasskey(): Promise<void> {
  const answer = await keyAnswer("/webapi/mfa/login/passkey", {}, true);
  begun(await ask<Session>("POST", "/webapi/sessions/passkey", answer, { open: true }));
}
