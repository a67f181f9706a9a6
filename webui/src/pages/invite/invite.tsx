// Behind an invitation or a reset link: a password and a second factor are set, once; that signs in, too.
import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError, ask, base64, begun, type Session, said } from "../../api";
import { go } from "../../router";
import { Button, Field, Page, Spinner } from "../../ui";
import { sentence } from "../../ui/notice";
import { type CreationOptions, createKey } from "../../webauthn";
import type { PageProps } from "../table";

interface Info {
  user: string;
  kind: string;
  cluster: string;
  second_factor: string;
  passwordless?: boolean;
  qr: string;
  totp_secret: string;
}

type Factor = "app" | "key" | "passkey" | "none";

// what each setting offers; the first is chosen at the start
const OFFERS: Record<string, Factor[]> = {
  off: ["none"],
  otp: ["app"],
  webauthn: ["key"],
  on: ["app", "key"],
  optional: ["app", "key", "none"],
};
const NAMES: Record<Factor, string> = {
  app: "Authenticator app",
  key: "Security key",
  passkey: "Passkey: signs you in without a password, too",
  none: "None",
};

function offersOf(info: Info | null): Factor[] {
  const offers = OFFERS[info?.second_factor ?? ""] ?? ["app"];
  return info?.passwordless ? offers.flatMap((one): Factor[] => (one === "key" ? ["key", "passkey"] : [one])) : offers;
}

export default function Invite({ params }: PageProps) {
  const token = params.token ?? "";
  const link = encodeURIComponent(token);
  const [info, setInfo] = useState<Info | null>(null);
  const [refused, setRefused] = useState(false);
  const [problem, setProblem] = useState("");
  const [factor, setFactor] = useState<Factor>("none");
  const [password, setPassword] = useState("");
  const [again, setAgain] = useState("");
  const [code, setCode] = useState("");
  const [busy, setBusy] = useState(false);
  const [done, setDone] = useState(false);
  const alone = factor === "passkey" && !password && !again; // no password beside it
  const form = useRef<HTMLFormElement>(null);
  const offers = offersOf(info);

  useEffect(() => {
    ask<Info>("GET", `/webapi/users/password/token/${link}`, undefined, { open: true }).then(
      (found) => {
        setInfo(found);
        setFactor(offersOf(found)[0] as Factor);
      },
      (error) => {
        const gone = error instanceof ApiError && error.status === 404;
        setRefused(true);
        setProblem(sentence(said(error).message) + (gone ? " Ask an administrator for a new one." : ""));
      },
    );
  }, [link]);

  useEffect(() => {
    if (info) form.current?.querySelector<HTMLInputElement>("#password")?.focus();
  }, [info]);

  async function registered(): Promise<object> {
    const path = `/webapi/mfa/token/${link}/registerchallenge`;
    const body = { passwordless: factor === "passkey" };
    const asked = await ask<{ challenge_id: string; webauthn: CreationOptions }>("POST", path, body, { open: true });
    const made = await createKey(asked.webauthn);
    return { challenge_id: asked.challenge_id, webauthn_creation_response: made };
  }

  async function send() {
    if (busy) return;
    setProblem("");
    if (password !== again) {
      setProblem("The two passwords differ.");
      form.current?.querySelector<HTMLInputElement>("#again")?.focus();
      return;
    }
    setBusy(true);
    try {
      const body = {
        token,
        password: base64(password),
        second_factor_token: factor === "app" ? code : "",
        ...(factor === "key" || factor === "passkey" ? await registered() : {}),
        sign_in: true,
      };
      const answer = await ask<Partial<Session>>("PUT", "/webapi/users/password/token", body, { open: true });
      setPassword("");
      setAgain("");
      if (answer.token) {
        begun(answer as Session);
        go("/web", { replace: true });
        return;
      }
      setDone(true);
    } catch (error) {
      setProblem(sentence(said(error).message));
    } finally {
      setCode("");
      setBusy(false);
    }
  }

  const title = refused
    ? "This link cannot be used"
    : !info
      ? "One moment"
      : done
        ? "Done"
        : info.kind === "reset"
          ? "Choose a new password"
          : `Welcome to ${info.cluster}`;
  return (
    <main id="main" class="alone" tabIndex={-1}>
      <Page title={title} id="title">
        <p id="problem" class="notice bad" role="alert" hidden={!problem}>
          {problem}
        </p>
        {!info && !refused && <Spinner label="Loading" />}
        {info && !done && (
          <form
            id="form"
            ref={form}
            onSubmit={(event) => {
              event.preventDefault();
              send();
            }}
          >
            <Field
              id="user"
              label="User"
              name="username"
              value={info.user}
              set={() => {}}
              autoComplete="username"
              readOnly
            />
            <Field
              id="password"
              label="Password"
              type="password"
              value={password}
              set={setPassword}
              autoComplete="new-password"
              minLength={12}
              maxLength={128}
              hint={
                factor === "passkey"
                  ? "May stay empty: the passkey is enough. Else 12 characters or more."
                  : "12 characters or more."
              }
              required={!alone}
            />
            <Field
              id="again"
              label="Password again"
              type="password"
              value={again}
              set={setAgain}
              autoComplete="new-password"
              maxLength={128}
              required={!alone}
            />
            {offers.length > 1 && (
              <fieldset id="choice">
                <legend>Second factor</legend>
                {offers.map((one) => (
                  <label key={one} class="choice">
                    <input
                      type="radio"
                      name="factor"
                      value={one}
                      checked={one === factor}
                      onChange={() => setFactor(one)}
                    />{" "}
                    {NAMES[one]}
                  </label>
                ))}
              </fieldset>
            )}
            {factor === "app" && (
              <div>
                <p>Scan this with an authenticator app, then type the code that it shows.</p>
                <img
                  id="qr"
                  class="qr"
                  src={`data:image/png;base64,${info.qr}`}
                  alt="QR code for the authenticator app"
                />
                <p class="hint">
                  No camera? Enter this key by hand: <code id="secret">{info.totp_secret}</code>
                </p>
                <Field
                  id="code"
                  label="Code"
                  value={code}
                  set={setCode}
                  inputMode="numeric"
                  pattern="[0-9]{6}"
                  autoComplete="one-time-code"
                  maxLength={6}
                  required
                />
              </div>
            )}
            {factor === "passkey" && (
              <p>
                Your browser asks next where to keep it: a phone, a computer or a security key that checks your
                fingerprint, face or PIN.
              </p>
            )}
            {factor === "key" && <p>Have your security key at hand: the browser asks for it next.</p>}
            <Button id="send" type="submit" kind="primary" busy={busy} disabled={busy}>
              {alone ? "Register the passkey" : "Set password"}
            </Button>
          </form>
        )}
        {info && done && <Done user={info.user} />}
      </Page>
    </main>
  );
}

// Set, but no session came of it: the user may not log in now, or was changed at that moment.
function Done({ user }: { user: string }) {
  const next = useRef<HTMLElement>(null);
  useEffect(() => next.current?.querySelector<HTMLElement>("button")?.focus(), []);
  return (
    <section id="done" aria-label="Sign in" ref={next}>
      <p role="status">All is set. You are not signed in yet.</p>
      <Button kind="primary" onClick={() => go("/web/signin", { replace: true })}>
        Sign in
      </Button>
      <p class="hint terminal-hint">Or in a terminal:</p>
      <pre class="command">{`tsh login --proxy=${window.location.host} --user=${user}`}</pre>
    </section>
  );
}
