// Security keys and passkeys: between the JSON of the proxy and what browsers take and give. Bytes travel as base64url.

interface Descriptor {
  type: "public-key";
  id: string;
}

export interface AssertionOptions {
  publicKey: {
    challenge: string;
    rpId: string;
    allowCredentials?: Descriptor[];
    userVerification?: UserVerificationRequirement;
    timeout?: number;
  };
}

export interface CreationOptions {
  publicKey: Omit<PublicKeyCredentialCreationOptions, "challenge" | "user" | "excludeCredentials"> & {
    challenge: string;
    user: { id: string; name: string; displayName: string };
    excludeCredentials?: Descriptor[];
  };
}

export function bytesOf(text: string): Uint8Array<ArrayBuffer> {
  const plain = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
  return Uint8Array.from(plain, (character) => character.charCodeAt(0));
}

export function textOf(buffer: ArrayBuffer | null): string {
  if (!buffer) return "";
  const plain = btoa(String.fromCharCode(...new Uint8Array(buffer)));
  return plain.replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

function listed(credentials: Descriptor[] | undefined): PublicKeyCredentialDescriptor[] {
  return (credentials ?? []).map((one) => ({ type: one.type, id: bytesOf(one.id) }));
}

// What a browser says when a key did not answer names nothing useful, on purpose.
function keyProblem(error: unknown, passkey: boolean): Error {
  const name = error instanceof Error ? error.name : "";
  const [one, many] = passkey ? ["passkey", "Passkeys"] : ["security key", "Security keys"];
  if (name === "InvalidStateError")
    return new Error(
      passkey ? "This device holds a passkey of yours already." : "This security key is registered already.",
    );
  if (name === "NotSupportedError") return new Error(`This ${one} cannot be used here.`);
  if (name === "SecurityError") return new Error(`${many} work only under the name of this cluster.`);
  if (passkey) return new Error("No passkey answered. Unlock the device that holds it, and try again.");
  return new Error("No security key answered. Plug it in, touch it when it blinks, and try again.");
}

export function keysAvailable(): boolean {
  return Boolean(window.PublicKeyCredential && navigator.credentials);
}

function must(): void {
  if (!keysAvailable()) throw new Error("This browser knows no security keys. Use another one.");
}

export function makesPasskey(options: CreationOptions): boolean {
  return options.publicKey.authenticatorSelection?.residentKey === "required";
}

export async function createKey(options: CreationOptions): Promise<object> {
  must();
  const asked = options.publicKey;
  let made: PublicKeyCredential;
  try {
    made = (await navigator.credentials.create({
      publicKey: {
        ...asked,
        challenge: bytesOf(asked.challenge),
        user: { ...asked.user, id: bytesOf(asked.user.id) },
        excludeCredentials: listed(asked.excludeCredentials),
      },
    })) as PublicKeyCredential;
  } catch (error) {
    throw keyProblem(error, makesPasskey(options));
  }
  const response = made.response as AuthenticatorAttestationResponse;
  return {
    id: textOf(made.rawId),
    type: made.type,
    response: {
      clientDataJSON: textOf(response.clientDataJSON),
      attestationObject: textOf(response.attestationObject),
    },
  };
}

// A passkey is asked without a list: the browser shows those that it knows of.
export async function signWithKey(options: AssertionOptions): Promise<object> {
  must();
  const asked = options.publicKey;
  let made: PublicKeyCredential;
  try {
    made = (await navigator.credentials.get({
      publicKey: {
        ...asked,
        challenge: bytesOf(asked.challenge),
        allowCredentials: listed(asked.allowCredentials),
      },
    })) as PublicKeyCredential;
  } catch (error) {
    throw keyProblem(error, !asked.allowCredentials?.length);
  }
  const response = made.response as AuthenticatorAssertionResponse;
  return {
    id: textOf(made.rawId),
    type: made.type,
    response: {
      clientDataJSON: textOf(response.clientDataJSON),
      authenticatorData: textOf(response.authenticatorData),
      signature: textOf(response.signature),
      userHandle: textOf(response.userHandle),
    },
  };
}
