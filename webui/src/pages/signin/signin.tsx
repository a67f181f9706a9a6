// Signing in: a name, a password, and a second factor where the cluster asks for one; or a passkey alone. Whatever was
// wrong, the proxy says one thing.
import { useEffect, useRef, useState } from "preact/hooks";
import { ask } from "../../api";
import { logIn, logInWithPasskey } from "../../login";
import { go, ownPath, usePlace } from "../../router";
import { Button, Field, Notice, Page, Trouble } from "../../ui";
import { sentence } from "../../ui/notice";
import { keysAvailable } from "../../webauthn";

interface Ping {
  cluster_name: string;
  auth?: { second_factor: string; has_motd: boolean; allow_passwordless?: boolean };
}

export default function SignIn() {
  const { query } = usePlace();
  const [ping, setPing] = useState<Ping | null>(null);
  const [motd, setMotd] = useState("");
  const [user, setUser] = useState("");
  const [password, setPassword] = useState("");
  const [code, setCode] = useState("");
  const [busy, setBusy] = useState("");
  const [error, setError] = useState<unknown>(null);
  const form = useRef<HTMLFormElement>(null);
  const passkey = useRef<HTMLDivElement>(null);

  useEffect(() => {
    ask<Ping>("GET", "/webapi/ping", undefined, { open: true }).then(async (found) => {
      setPing(found);
      if (!found.auth?.has_motd) return;
      setMotd((await ask<{ text: string }>("GET", "/webapi/motd", undefined, { open: true })).text);
    }, setError);
  }, []);

  const factor = ping?.auth?.second_factor ?? "otp";
  const codes = factor !== "off" && factor !== "webauthn";
  const keys = factor === "webauthn" || factor === "on" || factor === "optional";

  async function enter(what: string, act: () => Promise<void>, again: () => HTMLElement | null | undefined) {
    if (busy) return;
    setError(null);
    setBusy(what);
    try {
      await act();
      setPassword("");
      go(ownPath(query.get("next"), window.location.origin) ?? "/web", { replace: true });
    } catch (problem) {
      setError(problem);
      setCode("");
      again()?.focus();
    } finally {
      setBusy("");
    }
  }

  const signIn = (withKey: boolean) =>
    enter(
      withKey ? "Touch your security key when it blinks." : "Signing in",
      () => logIn(user, password, withKey ? { key: true } : { code }),
      () => form.current?.querySelector<HTMLInputElement>("input"),
    );
  const signInWithPasskey = () =>
    enter("Unlock your passkey: your browser asks for it.", logInWithPasskey, () =>
      passkey.current?.querySelector<HTMLElement>("button"),
    );

  const why = query.get("why");
  return (
    <main id="main" class="alone" tabIndex={-1}>
      <Page title={ping ? `Sign in to ${ping.cluster_name}` : "Sign in"}>
        {motd && <Notice>{motd}</Notice>}
        {why === "idle" && <Notice>You were signed out because nothing was done for a while.</Notice>}
        {why && why !== "idle" && !error && <Notice>{sentence("your session has ended")}</Notice>}
        <Trouble error={error} />
        <form
          ref={form}
          onSubmit={(event) => {
            event.preventDefault();
            signIn(factor === "webauthn");
          }}
        >
          <Field
            label="User name"
            value={user}
            set={setUser}
            name="username"
            autoComplete="username"
            autoCapitalize="none"
            spellcheck={false}
            required
          />
          <Field
            label="Password"
            value={password}
            set={setPassword}
            type="password"
            name="password"
            autoComplete="current-password"
            required
          />
          {codes && (
            <Field
              label="Code of your authenticator app"
              value={code}
              set={setCode}
              name="code"
              inputMode="numeric"
              autoComplete="one-time-code"
              pattern="[0-9 ]*"
              required={factor === "otp"}
            />
          )}
          <div class="actions">
            <Button type="submit" kind="primary" busy={busy !== ""}>
              {factor === "webauthn" ? "Sign in with a security key" : "Sign in"}
            </Button>
            {keys && codes && (
              <Button
                busy={busy !== ""}
                onClick={() => {
                  if (user && password) signIn(true);
                  else form.current?.reportValidity();
                }}
              >
                Use a security key
              </Button>
            )}
          </div>
          {busy && <p role="status">{busy}</p>}
        </form>
        {ping?.auth?.allow_passwordless && keysAvailable() && (
          <div ref={passkey} class="other-way">
            <Button busy={busy !== ""} onClick={signInWithPasskey} aria-describedby="passkey-hint">
              Sign in with a passkey
            </Button>
            <p id="passkey-hint" class="hint">
              Without a name and a password, if you have added one to your account.
            </p>
          </div>
        )}
        <p class="hint terminal-hint">In a terminal:</p>
        <pre class="command">{`tsh login --proxy=${window.location.host} --user=NAME`}</pre>
      </Page>
    </main>
  );
}
