// Who the user is and what menus may show. Auth decides anew about everything that is asked.
import { createContext } from "preact";
import { useContext } from "preact/hooks";

export interface UserContext {
  user: string;
  cluster: string;
  roles: string[];
  expires: string;
  acl: Record<string, string[]>;
}

export const Me = createContext<UserContext | null>(null);

export function useMe(): UserContext {
  const found = useContext(Me);
  if (!found) throw new Error("a page for users is shown without one");
  return found;
}

// "role.create": whether the user may probably do that. Empty: everybody may.
export function may(me: UserContext, needs: string | undefined): boolean {
  if (!needs) return true;
  const [kind, verb] = needs.split(".") as [string, string];
  return (me.acl[kind] ?? []).includes(verb);
}
