#!/usr/bin/env python3
"""A guestbook: one web page, its entries in Redis. Python's standard library alone.

    guestbook.py [--listen 127.0.0.1:8080] [--redis 127.0.0.1:6379] [--read 127.0.0.1:6379] [--replicas 0]

Every entry is followed by WAIT, so the page can say whether it lies in backfeed's store, where the loss of Redis
cannot reach it. WAIT counts replicas and cannot name them: with N real ones, only N + 1 includes backfeed for sure.
`--read` is where entries are read, such as those replicas. `/entries.json` gives the entries to scripts.
"""

import argparse
import html
import json
import socket
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

KEY = "guestbook"
# Longer texts are refused: a guestbook is no file store.
BODY_LIMIT = 16 * 1024
# How long a guest waits to hear that the entry is stored.
WAIT_MS = 5000
# Of each connection to Redis; longer than WAIT.
TIMEOUT = 8

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Guestbook</title><style>
body {{ font: 16px/1.5 sans-serif; max-width: 40em; margin: 2em auto; padding: 0 1em; }}
article {{ border-left: 3px solid #c33; padding: 0 1em; margin: 1em 0; }}
article p {{ margin: 0; white-space: pre-wrap; }} small {{ color: #777; }}
form {{ display: grid; gap: .5em; }} input, textarea, button {{ font: inherit; padding: .3em; }}
</style></head><body><h1>Guestbook</h1>
<form method="post"><input name="name" placeholder="Your name" maxlength="80" required>
<textarea name="message" placeholder="Your message" rows="3" maxlength="2000" required></textarea>
<button>Sign</button></form>
<p><small>{note}</small></p>
{entries}
</body></html>
"""


class RedisError(Exception):
    """Redis cannot be reached, or answered with an error."""


class Redis:
    """One connection; the few RESP replies that a guestbook meets."""

    def __init__(self, address):
        try:
            self.socket = socket.create_connection(address, TIMEOUT)
        except OSError as error:
            raise RedisError(f"no connection to Redis: {error}") from error
        self.stream = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stream.close()
        self.socket.close()

    def call(self, *words):
        """Sends a command and returns its reply."""
        parts = [str(word).encode() for word in words]
        request = b"*%d\r\n" % len(parts)
        request += b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
        try:
            self.socket.sendall(request)
            return self.reply()
        except OSError as error:
            raise RedisError(f"the connection to Redis broke: {error}") from error

    def reply(self):
        line = self.stream.readline()
        if not line.endswith(b"\r\n"):
            raise RedisError("Redis closed the connection")
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return rest.decode()
        if kind == b"-":
            raise RedisError(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self.bulk(int(rest))
        if kind == b"*":
            return [self.reply() for _ in range(int(rest))]
        raise RedisError(f"unexpected reply {line!r}")

    def bulk(self, length):
        data = self.stream.read(length + 2)
        if len(data) != length + 2:
            raise RedisError("Redis closed the connection")
        return data[:-2].decode(errors="replace")


class Guestbook(BaseHTTPRequestHandler):
    redis_address = ("127.0.0.1", 6379)
    read_address = redis_address
    replicas = 0

    def do_GET(self):
        path, _, query = self.path.partition("?")
        if path == "/healthz":
            return self.answer(200, "text/plain", "ok\n")
        if path not in ("/", "/entries.json"):
            return self.answer(404, "text/plain", "no such page\n")
        try:
            entries = self.entries()
        except RedisError as error:
            return self.closed(error)
        if path == "/entries.json":
            return self.answer(200, "application/json", json.dumps(entries) + "\n")
        signed = "stored" in parse_qs(query, keep_blank_values=True)
        note = "Thank you. Your entry is safely stored." if signed else f"{len(entries)} entries"
        return self.answer(200, "text/html", PAGE.format(note=note, entries=self.articles(entries)))

    def do_POST(self):
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > BODY_LIMIT:
            return self.answer(413, "text/plain", "that is too long for a guestbook\n")
        form = parse_qs(self.rfile.read(int(length)).decode(errors="replace"))
        entry = {name: form.get(name, [""])[0].strip() for name in ("name", "message")}
        if not all(entry.values()):
            return self.answer(400, "text/plain", "a name and a message, please\n")
        entry["time"] = time.strftime("%Y-%m-%d %H:%M:%S")
        try:
            with Redis(self.redis_address) as redis:
                redis.call("RPUSH", KEY, json.dumps(entry))
                everyone = self.replicas + 1
                stored = redis.call("WAIT", everyone, WAIT_MS) >= everyone
        except RedisError as error:
            return self.closed(error)
        self.send_response(303)
        self.send_header("Location", "/?stored" if stored else "/")
        self.send_header("Content-Length", "0")
        self.end_headers()
        return None

    def entries(self):
        with Redis(self.read_address) as redis:
            return [json.loads(entry) for entry in redis.call("LRANGE", KEY, 0, -1)]

    @staticmethod
    def articles(entries):
        article = "<article><p>{message}</p><small>{name}, {time}</small></article>"
        shown = ({key: html.escape(str(text)) for key, text in entry.items()} for entry in reversed(entries))
        return "\n".join(article.format(**entry) for entry in shown)

    def closed(self, error):
        self.answer(503, "text/plain", f"The guestbook is closed for a moment: {error}\n")

    def answer(self, code, kind, text):
        body = text.encode()
        self.send_response(code)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Quiet: the page says what happens."""


def address(text):
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def main():
    parser = argparse.ArgumentParser(description="A guestbook: one web page, its entries in Redis.")
    parser.add_argument("--listen", type=address, default="127.0.0.1:8080", metavar="HOST:PORT")
    parser.add_argument("--redis", type=address, default="127.0.0.1:6379", metavar="HOST:PORT")
    parser.add_argument("--read", type=address, metavar="HOST:PORT", help="read here (default: as --redis)")
    parser.add_argument("--replicas", type=int, default=0, metavar="N", help="real replicas of that Redis")
    args = parser.parse_args()
    Guestbook.redis_address, Guestbook.read_address = args.redis, args.read or args.redis
    Guestbook.replicas = args.replicas
    try:
        ThreadingHTTPServer(args.listen, Guestbook).serve_forever()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
