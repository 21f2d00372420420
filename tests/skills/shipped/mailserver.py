"""A real SMTP server on loopback, as far as clients need one, that keeps mail and refuses when told to."""

from __future__ import annotations

import base64
import contextlib
import socketserver
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class MailServer:
    """`replies` overrides answers by command (MAIL, RCPT, DATA, END, AUTH, QUIT).

    END "hang up" gives none."""

    port: int
    mails: list[tuple[list[str], str]] = field(default_factory=list)
    logins: list[str] = field(default_factory=list)
    replies: dict[str, str] = field(default_factory=dict)
    tls: ssl.SSLContext | None = None
    was_secure: bool = False


class _Handler(socketserver.StreamRequestHandler):
    mail: MailServer
    receivers: list[str]

    def _say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())

    def handle(self) -> None:
        self._say("220 ready")
        self.receivers = []
        while line := self.rfile.readline().decode("ascii", "replace").strip():
            verb = line.split()[0].upper()
            if verb == "QUIT":
                self._say(self.mail.replies.get("QUIT", "221 bye"))
                return
            if not self._one(verb, line):
                return

    def _one(self, verb: str, line: str) -> bool:
        known = self.mail.replies.get(verb)
        if verb == "EHLO":
            more = "250-STARTTLS\r\n" if self.mail.tls is not None and not self.mail.was_secure else ""
            self._say(f"250-me\r\n{more}250 AUTH PLAIN")
        elif verb == "STARTTLS" and self.mail.tls is not None:
            self._say("220 go on")
            return self._secure(self.mail.tls)
        elif known is not None and not (verb == "RCPT" and "bad" not in line):
            self._say(known)
        elif verb == "AUTH":
            self.mail.logins.append(base64.b64decode(line.split()[2]).decode().replace("\0", " ").strip())
            self._say("235 yes")
        elif verb == "RCPT":
            self.receivers.append(line.partition("<")[2].partition(">")[0])
            self._say("250 yes")
        elif verb == "DATA":
            return self._data()
        else:
            self._say("250 yes")
        return True

    def _secure(self, tls: ssl.SSLContext) -> bool:
        plain = self.request
        try:
            self.request = tls.wrap_socket(plain, server_side=True)
        except ssl.SSLError:
            plain.close()
            return False
        self.mail.was_secure = True
        self.rfile.close()
        self.rfile, self.wfile = self.request.makefile("rb"), self.request.makefile("wb", buffering=0)
        return True

    def finish(self) -> None:
        """See StreamRequestHandler."""
        super().finish()
        self.request.close()

    def _data(self) -> bool:
        self._say("354 go on")
        lines = []
        while (line := self.rfile.readline()) not in (b".\r\n", b""):
            lines.append(line)
        self.mail.mails.append((self.receivers, b"".join(lines).decode()))
        end = self.mail.replies.get("END", "250 kept")
        if end != "hang up":
            self._say(end)
        return end != "hang up"


@contextlib.contextmanager
def mail_server(tls: ssl.SSLContext | None = None) -> Iterator[MailServer]:
    """A server until the block ends."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Handler) as server:
        server.daemon_threads = True
        mail = MailServer(server.server_address[1], tls=tls)
        server.RequestHandlerClass = type("Handler", (_Handler,), {"mail": mail})
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield mail
        finally:
            server.shutdown()
            thread.join()
