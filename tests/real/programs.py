"""The programs of tests/real: what each runs, and the package that has it.

Each is a second or so of work that ends by itself and says the same every time. `run` is for
bash, in an empty folder of its own; what `prepare` makes, once and untraced, is in `$MADE`.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

# Where packages put what a daemon's user or root alone calls.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Program:
    """One of them. `needs` says which package has a command, in Debian's names."""

    name: str
    run: str
    needs: dict[str, str]
    prepare: str = ""

    def missing(self) -> str:
        """What is not there, in words; empty if nothing is missing."""
        lack = [f"{c} (package {p})" for c, p in self.needs.items() if not found(c)]
        return ", ".join(lack)

    def argv(self) -> list[str]:
        return ["/bin/bash", "-euc", self.run]


def found(names: str) -> bool:
    """Whether a command is there, one of `a|b`, or a file of that path."""
    return any(
        Path(name).exists() if name.startswith("/") else shutil.which(name, path=PATH)
        for name in names.split("|")
    )


def _stress(name: str, *options: str) -> Program:
    """One of stress-ng's stressors, for so many of its own operations."""
    words = " ".join(options)
    run = f"exec stress-ng --quiet --no-rand-seed --temp-path . --{name} 1 {words}"
    return Program(f"stress-ng-{name}", run, {"stress-ng": "stress-ng"})


# Of stress-ng's classes vm and memory, without bigheap, oom-pipe, swap and watchdog: those that
# map, move, discard, protect, lock or share memory, each its own way.
STRESSORS = (
    _stress("brk", "--brk-ops 2000"),
    _stress("madvise", "--madvise-ops 1"),
    _stress("malloc", "--malloc-ops 3000", "--malloc-bytes 32M"),
    _stress("memfd", "--memfd-ops 4", "--memfd-bytes 8M"),
    _stress("mlock", "--mlock-ops 4"),
    _stress("mmap", "--mmap-ops 2", "--mmap-bytes 8M"),
    _stress("mmapaddr", "--mmapaddr-ops 1000"),
    _stress("mmaphuge", "--mmaphuge-ops 8"),
    _stress("mmapmany", "--mmapmany-ops 2000"),
    _stress("mprotect", "--mprotect-ops 500"),
    _stress("mremap", "--mremap-ops 20", "--mremap-bytes 4M"),
    _stress("msync", "--msync-ops 100", "--msync-bytes 4M"),
    _stress("munmap", "--munmap-ops 4"),
    _stress("remap", "--remap-ops 10"),
    _stress("shm-sysv", "--shm-sysv-ops 10", "--shm-sysv-bytes 8M"),
    _stress("stackmmap", "--stackmmap-ops 3"),
    _stress("tlb-shootdown", "--tlb-shootdown-ops 200"),
    _stress("userfaultfd", "--userfaultfd-ops 4000", "--userfaultfd-bytes 8M"),
    _stress("vm", "--vm-ops 2", "--vm-bytes 16M"),
    _stress("vm-rw", "--vm-rw-ops 4", "--vm-rw-bytes 8M"),
)

SQLITE = Program(
    "sqlite3",
    """exec sqlite3 data.db "
create table t(a integer, b text);
with recursive n(i) as (select 1 union all select i + 1 from n where i < 25000)
    insert into t select i, printf('%064d', i * 7919 % 25000) from n;
create index by_b on t(b);
select count(*), sum(length(b)), max(b) from t;
delete from t where a % 3 = 0;
vacuum;
pragma integrity_check;
" """,
    {"sqlite3": "sqlite3"},
)

_GIT = """
export HOME=$PWD GIT_CONFIG_NOSYSTEM=1
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
export GIT_AUTHOR_DATE='1700000000 +0000' GIT_COMMITTER_DATE='1700000000 +0000'
git init -q repository
cd repository
"""

GIT = Program(
    "git",
    f"""{_GIT}
for change in 1 2 3; do
    for file in 1 2 3 4 5 6; do seq "$change" "$file" 20000 >"$file"; done
    git add .
    git commit -q -m "change $change"
done
git gc -q
git fsck --no-progress
git log --format=%H
git diff --stat HEAD~2
""",
    {"git": "git"},
)

# Of git what takes seconds, not minutes, where a process more takes half a second.
GIT_COMMIT = Program(
    "git-commit",
    f"""{_GIT}
printf '%20000d' 7 >file
git add file
git commit -q -m change
git log --format=%H
""",
    {"git": "git"},
)

_SOURCES = """
source() { # NAME HOW_MANY: so many functions, and one that calls them all
    local i
    for ((i = 0; i < $2; i++)); do
        echo "static long f$i(long *a, long n) {
                  for (long j = 0; j < n; j++) a[j & 63] += a[(j * $i) & 63] ^ j;
                  return a[$i & 63] % 1000; }"
    done
    echo "long $1(long *a) { return 0"
    for ((i = 0; i < $2; i++)); do echo "+ f$i(a, $i)"; done
    echo "; }"
}
"""

GCC = Program(
    "gcc",
    """
gcc -O2 -o program "$MADE/one.c" "$MADE/main.c"
./program
""",
    {"gcc": "gcc"},
    f"""{_SOURCES}
source work 120 >one.c
echo '#include <stdio.h>
long work(long *); long a[64];
int main(void) {{ printf("%ld\\n", work(a)); return 7; }}' >main.c
""",
)

MAKE = Program(
    "make",
    """
make -s -j2 -f "$MADE/Makefile" "FROM=$MADE"
./program
""",
    {"make": "make", "gcc": "gcc"},
    f"""{_SOURCES}
for name in a b c d e f; do source "$name" 20 >"$name.c"; done
echo '#include <stdio.h>
long a(long *), b(long *), c(long *), d(long *), e(long *), f(long *); long x[64];
int main(void) {{ printf("%ld\\n", a(x) + b(x) + c(x) + d(x) + e(x) + f(x)); }}' >main.c
printf 'program: a.o b.o c.o d.o e.o f.o main.o\\n\\tgcc -o $@ $^\\n' >Makefile
printf '%%.o: $(FROM)/%%.c\\n\\tgcc -O1 -c -o $@ $<\\n' >>Makefile
""",
)

NUMPY = Program(
    "numpy",
    """exec /usr/bin/python3 -ISB -c '
import sys
sys.path.append("/usr/lib/python3/dist-packages")
import numpy as np
numbers = np.arange(1 << 20, dtype=np.uint64) * 2654435761 % (1 << 32)
table = np.arange(300 * 300).reshape(300, 300) % 17
print(int(np.sort(numbers)[12345]), int((table @ table).sum()))
parts = [np.full(1 << 16, i) for i in range(60)]
del parts[::2]
print(sum(int(part[-1]) for part in parts))
'
""",
    {"/usr/bin/python3": "python3", "/usr/lib/python3/dist-packages/numpy": "python3-numpy"},
)

NODE = Program(
    "node",
    """exec node -e '
let kept = [];
for (let i = 0; i < 300000; i++) {
    kept.push({ i, text: "x".repeat(i % 50) + i });
    if (kept.length > 50000) kept = kept.slice(25000);
}
const bytes = Buffer.alloc(1 << 24, 7);
console.log(kept.length, kept[9].text.length, bytes.reduce((a, b) => a + b, 0));
'
""",
    {"node": "nodejs"},
)

JAVA = Program(
    "java",
    """exec java -Xmx128m -XX:-UsePerfData -cp "$MADE" Work""",
    {"java": "default-jdk-headless", "javac": "default-jdk-headless"},
    """
cat >Work.java <<'END'
import java.util.HashMap;
public class Work {
    static long sum;
    public static void main(String[] none) throws Exception {
        Thread[] threads = new Thread[3];
        for (int t = 0; t < threads.length; t++) {
            final int from = t;
            threads[t] = new Thread(() -> {
                HashMap<Integer, String> kept = new HashMap<>();
                long mine = 0;
                for (int i = from; i < 200000; i++) {
                    kept.put(i % 20000, "number " + i);
                    mine += kept.get(i % 20000).length();
                }
                synchronized (Work.class) { sum += mine; }
            });
            threads[t].start();
        }
        for (Thread thread : threads) thread.join();
        System.out.println(sum);
    }
}
END
javac Work.java
""",
)

CHROMIUM = Program(
    "chromium",
    """
browser=$(command -v chromium-headless-shell || command -v chromium)
"$browser" --headless --no-sandbox --disable-gpu --user-data-dir="$PWD/profile" \\
    --disable-background-networking --dump-dom "file://$MADE/page.html" 2>/dev/null
""",
    {"chromium-headless-shell|chromium": "chromium-headless-shell"},
    """
cat >page.html <<'END'
<!DOCTYPE html><title>page</title><p id=a></p><script>
const rows = [];
for (let i = 0; i < 200; i++) rows.push('<li>' + 'x'.repeat(i));
document.getElementById('a').innerHTML = '<ul>' + rows.join('');
document.title = String(document.getElementById('a').offsetHeight > 0);
</script>
END
""",
)

REDIS = Program(
    "redis",
    """
redis-server --port 0 --unixsocket "$PWD/socket" --dir "$PWD" --save '' >log &
server=$!
say() { redis-cli -s socket "$@"; }
until say ping >/dev/null 2>&1; do sleep 0.05; done
say eval "for i = 1, 50000 do redis.call('set', 'k' .. i, string.rep('x', 300)) end" 0 >/dev/null
say bgsave >/dev/null
redis-benchmark -s socket -n 10000 -c 20 -d 400 -t set,get,lpush -q >/dev/null
say eval "for i = 1, 50000, 7 do redis.call('set', 'k' .. i, 'y') end" 0 >/dev/null
until say info persistence | grep -q rdb_bgsave_in_progress:0; do sleep 0.05; done
say info persistence | grep rdb_last_bgsave_status
say exists k7 k50000 mylist
say shutdown nosave
wait "$server"
""",
    {"redis-server": "redis-server", "redis-cli": "redis-tools", "redis-benchmark": "redis-tools"},
)

# The server refuses to be root's.
_AS_POSTGRES = """
bin=$(echo /usr/lib/postgresql/*/bin)
as() { (cd / && setpriv --reuid postgres --regid postgres --clear-groups "${bin##* }/$@"); }
"""

POSTGRES = Program(
    "postgresql",
    f"""{_AS_POSTGRES}
export PGHOST=$MADE PGDATABASE=postgres PGUSER=postgres
as pg_ctl -s -w -D "$MADE/data" -l "$MADE/log" start
as pgbench -q -i -s 1 2>/dev/null
as pgbench -n -c 4 -j 2 -t 150 >/dev/null 2>&1
as psql -Atc 'select count(*) from pgbench_history'
as psql -Atc 'select count(distinct bid), sum(aid) from pgbench_accounts'
as pg_ctl -s -w -D "$MADE/data" -m fast stop
""",
    {"setpriv": "util-linux", "/usr/lib/postgresql": "postgresql", "psql": "postgresql-client"},
    f"""{_AS_POSTGRES}
chown postgres: "$MADE"
as initdb -A trust -N -D "$MADE/data" >/dev/null
cat >>"$MADE/data/postgresql.conf" <<END
listen_addresses = ''
unix_socket_directories = '$MADE'
shared_buffers = 16MB
fsync = off
END
""",
)

REAL = (
    *STRESSORS, REDIS, POSTGRES, GIT, GCC, MAKE, NUMPY, NODE, JAVA, CHROMIUM, SQLITE,
)  # fmt: skip
BY_NAME = {program.name: program for program in (*REAL, GIT_COMMIT)}
