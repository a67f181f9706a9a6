"""The web client in Debian's Chromium before a running cluster: `make bench-web`.

**First load.** A window without a cache opens the page, once as somebody who is not signed in, once as somebody who
is. Counted are the bytes that the network carried (bodies as they travelled, with their headers). The time runs from
the start of the navigation until the frame was painted in which the sign-in page has its field, or the list its rows
and the search its field. That the field takes text is then tried.

**Keys.** `cat` runs in a terminal of ours and in one of wetty, a small web terminal of the same kind: xterm.js, and a
server that hands bytes between a websocket and a terminal of its own machine. It has no TLS, no second hop and no
recording, so it is the floor. The key comes from DevTools (`Input.dispatchKeyEvent`); its time is the event's own
`timeStamp`, which the browser gave it when it came about. What answers is the echo of the host's terminal driver. Both
draw text into the document in a frame (`requestAnimationFrame`); an observer of the rows sees there that the character
has become part of the screen, and a message sent at that point is handled after the frame was laid out and painted:
that is the end. The same few lines of script watch both, and neither may draw by WebGL, which a processor does more
slowly. Frames come 60 times a second, so up to 16.7 ms of each figure is waiting for one; what a graphics processor and
a screen add comes after it, on both sides. Rounds of keys alternate between the two.

**Search.** The storage of the cluster is given the records of so many nodes, with labels of which one is each node's
own. Somebody whose role looks at labels types into the search field, 100 ms from key to key. The time runs from the
event of the last key until the frame was painted that shows the rows that fit; the answer alone is what the browser's
own clock of requests says, from when the request was sent to its last byte.
"""
