"""Programs that share the guest service, as bytes on its socket: turns.py CASE [PIN]."""
import os, socket, sys, time

PATH = "/run/gose/guest.sock"
SELECT = "APDU {} 00A404000BA00000030800001000010000 CONTINUE=9000 MORE=61"
# GENERAL AUTHENTICATE of a digest with the P-256 key of slot 9A.
SIGN = "APDU {} 0087119A267C2482008120" + "07" * 32 + "00 MORE=61 APPEND"


class Program:
    def __init__(self, yields=False):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect(PATH)
        if yields:
            self.socket.sendall(b"YIELD\r\n")

    def send(self, *lines):
        self.socket.sendall("\r\n".join(["BEGIN", *lines, "END", ""]).encode())

    def receive(self):
        text = b""
        while not text.endswith(b"END\r\n"):
            part = self.socket.recv(65536)
            if not part:
                raise EOFError
            text += part
        return text.decode().split("\r\n")[1:-2]

    def ask(self, *lines):
        self.send(*lines)
        return self.receive()

    def close(self):
        self.socket.close()


def verify(pin):
    digits = pin.encode().ljust(8, b"\xff").hex().upper()
    return f"APDU {{}} 0020008008{digits} CONTINUE=9000"


def on(seid, *lines):
    return [line.format(seid) for line in lines]


def last_sw(lines):
    return lines[-1][-4:]


def pin(number):
    """The first program verified the PIN and gives way; the second one signs without it."""
    first, second = Program(yields=True), Program()
    assert last_sw(first.ask(*on("ec", "POWERON {}", SELECT, verify(number), SIGN))) == "9000"
    assert last_sw(first.ask(*on("ec", SIGN))) == "9000", "it goes on where it was"
    assert last_sw(second.ask(*on("ec", "POWERON {}", SELECT, SIGN))) == "6982", "without the PIN"
    second.ask("SHUTDOWN ec")
    # The first one is told, and begins anew.
    assert first.ask(*on("ec", SIGN))[0].startswith("-7"), "it lost the element"
    assert last_sw(first.ask(*on("ec", "POWERON {}", SELECT, SIGN))) == "6982", "its PIN is gone"
    assert last_sw(first.ask(*on("ec", "POWERON {}", SELECT, verify(number), SIGN))) == "9000"


def hold():
    first, second = Program(), Program()
    first.ask("POWERON ec")
    began = time.monotonic()
    second.send("POWERON ec")
    for _ in range(8):
        # Each request counts anew: an EAP conversation goes on for as long as it takes.
        assert first.ask(*on("ec", SELECT))[-1].startswith("+"), "the holder goes on"
        time.sleep(1)
    assert second.receive()[0].startswith("-7")
    waited = time.monotonic() - began
    assert 7 < waited < 12, waited
    first.ask("SHUTDOWN ec")
    assert second.ask("POWERON ec")[0].startswith("+")
    second.ask("SHUTDOWN ec")


def rest():
    first, second = Program(), Program()
    first.ask("POWERON rsa")
    time.sleep(28)
    began = time.monotonic()
    assert second.ask("POWERON rsa")[0].startswith("+")
    assert 0.5 < time.monotonic() - began < 6
    assert first.ask(*on("rsa", SELECT))[0].startswith("-7")
    second.ask("SHUTDOWN rsa")


def ends(number):
    first = Program()
    assert last_sw(first.ask(*on("ec", "POWERON {}", SELECT, verify(number), SIGN))) == "9000"
    first.close()
    time.sleep(0.3)
    second = Program()
    powered = second.ask("POWERON ec APPEND")[0]
    assert "already" not in powered, powered
    assert last_sw(second.ask(*on("ec", SELECT, SIGN))) == "6982"
    second.ask("SHUTDOWN ec")


def order():
    holder = Program()
    holder.ask("POWERON ec")
    waiting = []
    for number in range(5):
        program = Program()
        program.send("POWERON ec", "SHUTDOWN ec")
        waiting.append(program)
        time.sleep(0.1)
    holder.ask("SHUTDOWN ec")
    times = []
    for program in waiting:
        assert program.receive()[-1].startswith("+")
        times.append(time.monotonic())
    assert times == sorted(times) and times[-1] - times[0] < 5


def nonsense():
    honest = Program()
    for bytes_ in [b"GET / HTTP/1.1\r\n\r\n", b"\0" * 1000, b"BEGIN\r\n" + b"A" * 200_000, b"YIELD\r\nYIELD\r\n"]:
        program = Program()
        try:
            program.socket.sendall(bytes_)
            assert program.socket.recv(100) == b""
        except ConnectionError:
            pass
    half = Program()
    half.socket.sendall(b"BEGIN\r\nPOWER")
    unknown = Program()
    assert unknown.ask("JUMP ec", "POWERON ec")[0].split()[1] == "001"
    assert unknown.ask("POWERON nowhere")[0].startswith("-6")
    assert honest.ask("GET-VERSION")[0].startswith("+")
    assert "ec" in honest.ask("LIST")[0]
    began = time.monotonic()
    assert half.socket.recv(100) == b"", "half a request is left in time"
    assert time.monotonic() - began < 12


def killed(number):
    child = os.fork()
    if child == 0:
        program = Program()
        while True:
            program.ask(*on("ec", "POWERON {}", SELECT, verify(number), SIGN))
    time.sleep(0.5)
    os.kill(child, 9)
    os.waitpid(child, 0)
    began = time.monotonic()
    assert Program().ask("POWERON ec", "SHUTDOWN ec")[0].startswith("+")
    assert time.monotonic() - began < 1


def crowd():
    def many():
        programs = [Program() for _ in range(8)]
        served = 0
        for program in programs:
            try:
                program.send("GET-VERSION")
                served += program.receive()[0].startswith("+")
            except (ConnectionError, EOFError):
                pass
        assert served == 4, served
        time.sleep(1)

    child = os.fork()
    if child == 0:
        os.setgid(65534)
        os.setuid(65534)
        many()
        os._exit(0)
    time.sleep(0.5)
    assert Program().ask("GET-VERSION")[0].startswith("+")
    assert os.waitpid(child, 0)[1] == 0


def full():
    holder = Program()
    holder.ask("POWERON ec")
    waiting = [Program() for _ in range(2)]
    for program in waiting:
        program.send("POWERON ec")
    time.sleep(0.3)
    began = time.monotonic()
    assert Program().ask("POWERON ec")[0].startswith("-7")
    assert time.monotonic() - began < 0.5
    for program in waiting:
        assert program.receive()[0].startswith("-7")
    assert time.monotonic() - began < 3


globals()[sys.argv[1]](*sys.argv[2:])
