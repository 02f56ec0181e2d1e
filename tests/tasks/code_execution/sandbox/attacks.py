"""Programs that try to get out, stay, or starve the machine. Each sets `won` where it got what it wanted.

`HERE` is a folder that everybody may write, with secret.txt and a socket in it; `PORT` a listener on
the loopback; `VICTIM` a process of the same user outside; `HOST` the caller's process id. Modules are
loaded already, so that an attack reaches the system call.
"""

# what has to be stopped, since it does not end by itself
ENDLESS = {
    "busy loop": "while True: pass",
    "loop that swallows everything": """
while True:
    try:
        while True: pass
    except BaseException:
        continue""",
    "loop after settrace(None)": "sys.settrace(None)\nwhile True: pass",
    "huge power": "x = 10 ** 10 ** 9",
    "endless sum": "sum(itertools.count())",
    "exponential regular expression": "re.match('(a+)+$', 'a' * 64 + 'b')",
    "ignores all signals, then loops": """
for n in range(1, 65):
    try: signal.signal(n, signal.SIG_IGN)
    except Exception: pass
while True: pass""",
    "hostile __repr__ loops": """
class A:
    def __repr__(self):
        while True: pass
str(A())""",
    "endless atexit": """
def forever():
    while True: pass
atexit.register(forever)
atexit._run_exitfuncs()""",
    "endless __del__": """
class A:
    def __del__(self):
        while True: pass
A()""",
    "loop in hostile __hash__": """
class A:
    def __hash__(self):
        while True: pass
{A()}""",
}

# what has to fail, with an exception or the end of the process
REFUSED = {
    # processes
    "fork": "won = os.fork() >= 0",
    "fork bomb": "while True:\n    os.fork()\n    won = True",
    "fork by system call": "won = ctypes.CDLL(None).fork() >= 0",
    "clone by system call": "won = ctypes.CDLL(None).syscall(56 if X86 else 220, 17, 0, 0, 0, 0) >= 0",
    "thread": "threading.Thread(target=print).start()\nwon = True",
    "subprocess": "subprocess.run(['/bin/true'])\nwon = True",
    "shell": "won = os.system('touch ' + HERE + '/created') == 0",
    "exec": "os.execv('/bin/sh', ['sh', '-c', 'touch ' + HERE + '/created'])",
    "kill the caller": "os.kill(HOST, 9)\nwon = True",
    "kill a process of the same user": "os.kill(VICTIM, 9)\nwon = True",
    "kill everybody": "os.kill(-1, 9)\nwon = True",
    "kill the parent": "os.kill(os.getppid(), 9)\nwon = True",
    "kill by system call": "won = ctypes.CDLL(None).kill(VICTIM, 9) == 0",
    "ptrace": "won = ctypes.CDLL(None).ptrace(16, VICTIM, 0, 0) == 0",
    "read another's memory": "won = ctypes.CDLL(None).process_vm_readv(VICTIM, 0, 0, 0, 0, 0) == 0",
    # memory
    "a list of ten billion": "x = [0] * 10 ** 10",
    "a growing string": "s = 'a'\nwhile True: s += s",
    "a mapping of 256 GiB": "mmap.mmap(-1, 1 << 38)\nwon = True",
    "endless list": "list(iter(int, 1))",
    "a file in memory": "won = os.memfd_create('x') >= 0",
    "deep copies that double": """
x = [[0]]
while True:
    x = x + copy.deepcopy(x)""",
    "executable memory": "mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)\nwon = True",
    # files
    "write a file": "open(HERE + '/created', 'w').write('x')\nwon = True",
    "fill the disk": "f = open(HERE + '/created', 'wb')\nwhile True: f.write(bytes(1 << 20))",
    "change a file": "open(HERE + '/secret.txt', 'a').write('x')\nwon = True",
    "read a file": "won = open(HERE + '/secret.txt').read()",
    "read the users": "won = open('/etc/passwd').read()",
    "read an environment": "won = open('/proc/1/environ', 'rb').read()",
    "list a folder": "won = os.listdir('/')",
    "look at a file": "won = os.stat('/etc/passwd')",
    "delete a file": "os.remove(HERE + '/secret.txt')\nwon = True",
    "rename a file": "os.rename(HERE + '/secret.txt', HERE + '/created')\nwon = True",
    "change rights": "os.chmod(HERE + '/secret.txt', 0)\nwon = True",
    "change times": "os.utime(HERE + '/secret.txt', (0, 0))\nwon = True",
    "make a folder": "os.mkdir(HERE + '/created')\nwon = True",
    "make a link": "os.symlink('/etc', HERE + '/created')\nwon = True",
    "shared memory": "open('/dev/shm/' + NAME, 'w')\nwon = True",
    "change the folder": "os.chdir('/tmp')\nwon = True",
    "open by system call": "won = ctypes.CDLL(None).open(b'/etc/passwd', 0) >= 0",
    "load a module from disk": "import wave\nwon = True",
    # the network
    "TCP": "socket.socket().connect(('127.0.0.1', PORT))\nwon = True",
    "UDP": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', PORT))\nwon = True",
    "unix socket": "socket.socket(socket.AF_UNIX).connect(HERE + '/socket')\nwon = True",
    "unix socket on a closed descriptor": """
os.close(0)
socket.socket(socket.AF_UNIX).connect(HERE + '/socket')
won = True""",
    "abstract socket": "socket.socket(socket.AF_UNIX).connect('\\0' + NAME)\nwon = True",
    # privileges and limits
    "raise its limits": "resource.setrlimit(resource.RLIMIT_CPU, (9, 9))\nwon = True",
    "raise its address space": "resource.setrlimit(resource.RLIMIT_AS, (-1, -1))\nwon = True",
    "become root": "os.setuid(0)\nwon = True",
    "a namespace of its own": "won = ctypes.CDLL(None).unshare(0x10000000) == 0",
    "mount": "won = ctypes.CDLL(None).mount(0, b'/tmp', b'tmpfs', 0, 0) == 0",
    "a larger priority": "os.nice(-5)\nwon = True",
    # the interpreter
    "null pointer": "ctypes.string_at(0)",
    "endless recursion": "def f(): return f()\nf()",
    "endless recursion, caught": """
def f():
    try: f()
    finally: f()
f()""",
    "nested lists and repr": "x = []\nfor i in range(10 ** 6): x = [x]\nrepr(x)",
    "sleep": "time.sleep(60)\nwon = True",
    "read the input": "won = sys.stdin.buffer.raw.read(1) != b''",
    "leave at once": "os._exit(0)",
    "exit": "raise SystemExit",
    "abort": "os.abort()",
    # the result
    "forge a result": "os.write(3, bytes(16) + (3).to_bytes(4, 'little') + b'WON')\nwhile True: pass",
    "flood the result": "while True: os.write(3, bytes(1 << 16))",
    "close the result": "os.close(3)",
    "an endless result": "RESULT = 'x' * (1 << 22)\nraise SystemExit",
}

ATTACKS = {**ENDLESS, **REFUSED}
ALONE = [  # those that a single layer has to stop as well
    *("write a file", "read the users", "kill a process of the same user", "TCP", "unix socket"),
    "unix socket on a closed descriptor",
    *("shell", "delete a file", "abstract socket", "read an environment"),
]
