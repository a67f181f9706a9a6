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
function keyProblem(error: unknown): Error {
  const name = error instanceof Error ? error.name : "";
  if (name === "InvalidStateError") return new Error("This security key is registered already.");
  if (name === "NotSupportedError") return new Error("This security key cannot be used here.");
  if (name === "SecurityError") return new Error("Security keys work only under the name of this cluster.");
  return new Error("No security key answered. Plug it in, touch it when it blinks, and try again.");
}

export function keysAvailable(): boolean {
  return Boolean(window.PublicKeyCredential && navigator.credentials);
}

function must(): void {
  if (!keysAvailable()) throw new Error("This browser knows no security keys. Use another one.");
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
    throw keyProblem(error);
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
    throw keyProblem(error);
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
