// xterm.js writes `<style>` elements and `style` attributes, which the pages' policy (CSP) refuses. The same rules and
// declarations are given to the browser through CSSOM here, which the policy allows. Only strings that xterm.js itself makes
// of options and colours come here, never what a host sends.

let made = false;

// What stands for a `<style>` element: a hidden element whose text becomes a constructed style sheet.
function standIn(): HTMLElement {
  const element = document.createElement("span");
  element.hidden = true;
  const sheet = new CSSStyleSheet();
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
  Object.defineProperty(element, "textContent", {
    set(text: string) {
      sheet.replaceSync(text);
    },
    get() {
      return "";
    },
  });
  element.remove = () => {
    document.adoptedStyleSheets = document.adoptedStyleSheets.filter((one) => one !== sheet);
    Element.prototype.remove.call(element);
  };
  return element;
}

// Runs `open`, in which xterm.js makes its style elements.
export function withOwnStyles(open: () => void): void {
  if (!made) {
    made = true;
    // xterm.js gives colours that are not of the palette to its spans so
    HTMLSpanElement.prototype.setAttribute = function (this: HTMLSpanElement, name: string, value: string) {
      if (name === "style") this.style.cssText = value;
      else Element.prototype.setAttribute.call(this, name, value);
    };
  }
  const usual = document.createElement;
  document.createElement = ((name: string, options?: ElementCreationOptions) =>
    name === "style" ? within(usual, standIn) : usual.call(document, name, options)) as typeof document.createElement;
  try {
    open();
  } finally {
    document.createElement = usual;
  }
}

function within(usual: typeof document.createElement, make: () => HTMLElement): HTMLElement {
  const replaced = document.createElement;
  document.createElement = usual;
  try {
    return make();
  } finally {
    document.createElement = replaced;
  }
}
