"use strict";
document.getElementById("host").textContent = window.location.host;
