// A second factor, asked within the page: a code, or a security key.
import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { Button, Field, Notice, Trouble } from "../../ui";
import { sentence } from "../../ui/notice";
import { type AssertionOptions, signWithKey } from "../../webauthn";

export interface Asked {
  challenge_id: string;
  totp_challenge: boolean;
  webauthn_challenge: unknown;
  error?: string;
}

interface Props {
  why: string;
  asked: Asked;
  answer: (answer: object) => void;
  cancel: () => void;
}

export function Factor({ why, asked, answer, cancel }: Props) {
  const [code, setCode] = useState("");
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const form = useRef<HTMLFormElement>(null);
  const { challenge_id, totp_challenge, webauthn_challenge } = asked;

  useLayoutEffect(() => {
    setCode("");
    form.current?.querySelector<HTMLElement>("input, button")?.focus();
  }, [challenge_id]);

  async function withKey() {
    setError(null);
    setBusy(true);
    try {
      const response = await signWithKey(webauthn_challenge as AssertionOptions);
      answer({ challenge_id, webauthn_challenge_response: response });
    } catch (problem) {
      setError(problem);
    } finally {
      setBusy(false);
    }
  }

  return (
    <form
      class="factor"
      ref={form}
      aria-label="Second factor"
      onSubmit={(event) => {
        event.preventDefault();
        if (totp_challenge && code) answer({ challenge_id, second_factor_token: code.replaceAll(" ", "") });
      }}
    >
      <p>{why}</p>
      {asked.error && <Notice kind="bad">{sentence(asked.error)}</Notice>}
      <Trouble error={error} />
      {totp_challenge && (
        <Field
          label="Code of your authenticator app"
          value={code}
          set={setCode}
          inputMode="numeric"
          autoComplete="one-time-code"
          pattern="[0-9 ]*"
          required
        />
      )}
      <div class="actions">
        {totp_challenge && (
          <Button type="submit" kind="primary">
            Continue
          </Button>
        )}
        {Boolean(webauthn_challenge) && (
          <Button kind={totp_challenge ? "plain" : "primary"} busy={busy} onClick={withKey}>
            Use a security key
          </Button>
        )}
        <Button kind="quiet" onClick={cancel}>
          Cancel
        </Button>
      </div>
      {busy && <p role="status">Touch your security key when it blinks.</p>}
    </form>
  );
}
