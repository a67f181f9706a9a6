import "./style/base.css";
import "./style/parts.css";
import { render } from "preact";
import { App } from "./app";
import { start } from "./router";
import { applyTheme } from "./theme";

applyTheme();
start();
render(<App />, document.getElementById("app") as HTMLElement);
