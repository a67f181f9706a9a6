import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { current } from "../api";
import { hasMoved, here, match } from "../router";

interface Props {
  title: string;
  id?: string; // of the heading
  actions?: ComponentChildren; // buttons beside the heading
  children: ComponentChildren;
}

// A page's heading, the window's title, and the focus on the heading after one came here by a link.
export function Page({ title, id, actions, children }: Props) {
  const heading = useRef<HTMLHeadingElement>(null);
  useEffect(() => {
    const site = match("/web/cluster/:site", here().path.split("/").slice(0, 4).join("/"))?.site;
    const cluster = site && site !== "-current-" ? site : current()?.cluster;
    document.title = cluster ? `${title} · ${cluster}` : title;
  }, [title]);
  useEffect(() => {
    const inDialog = document.activeElement?.closest("dialog");
    if (hasMoved() && !inDialog) heading.current?.focus({ preventScroll: true });
  }, []);
  return (
    <>
      <div class="heading">
        <h1 ref={heading} id={id} tabIndex={-1}>
          {title}
        </h1>
        {actions && <div class="actions">{actions}</div>}
      </div>
      {children}
    </>
  );
}
