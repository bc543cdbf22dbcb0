# Each of demo, test, test-kernels, bench, lint and install first installs what is missing
# (tools/bootstrap); see docs/install.md.

PREFIX ?= /usr/local
CFLAGS := -O1 -Wall -Wextra
PYTHON := .venv/bin/python
# Tracing needs root: as root, or through sudo. Without either, live tests skip and say so.
SUDO := $(shell [ "$$(id -u)" = 0 ] || command -v sudo)

# In CI, a failed test that passes alone five times does not fail the run: tests/unsteady.py.
FORGIVING := $(if $(filter true 1,$(CI)),-p tests.unsteady --unsteady=build/unsteady)
# There the unit tests also say what of the tracer they run, which is to be so many per cent.
COVERED := $(if $(filter true 1,$(CI)),84)

.PHONY: help bootstrap demo test test-unit test-live test-kernels test-real test-pythons test-soak \
        fuzz bench lint \
        format lock install uninstall check-install clean distclean

help:
	@echo "make demo          trace multimap: five pages gain their frames (build/demo.csv)"
	@echo "make test          unit tests, and live tests on this kernel where BPF is allowed"
	@echo "make test-kernels  the live tests on stock kernels in QEMU [KERNELS=6.1] [PROBES=kprobe]"
	@echo "                   [FULL=1]: every test with every probe"
	@echo "make test-real     real programs traced, every fault of theirs held against witnesses"
	@echo "make test-pythons  Python's functions in call stacks, with CPython 3.13 and 3.14 of other"
	@echo "                   Debian suites"
	@echo "make test-soak     what takes long: hours of --live, --stacks and fork storms, every step"
	@echo "                   of every output made to fail [MINUTES=60]"
	@echo "make fuzz          damaged input of every kind, more of it than the unit tests have"
	@echo "                   [EXAMPLES=100000] [SEED=7] [FORMATS='elf maps']"
	@echo "make bench         what tracing costs, beside perf, bpftrace and bcc: docs/performance.md"
	@echo "make lint          mypy --strict, ruff, clang-format, codespell, shellcheck"
	@echo "make lock          renew requirements/: what the others install, by version and hash"
	@echo "make install       put the commands where sudo finds them [PREFIX=$(PREFIX)]"
	@echo "make uninstall     remove them again"
	@echo "make clean         remove what was built; distclean removes .venv, too"

bootstrap:
	@tools/bootstrap

demo: bootstrap
	@mkdir -p build
	$(SUDO) $(PYTHON) -IB .venv/bin/pagefault-trace --perms rwx --csv build/demo.csv --force \
	 --snapshot-interval 200 -- .venv/bin/multimap --auto
	@echo "Every fault, the interpreter's own included, is in build/demo.csv."

test: test-unit test-live

test-unit: bootstrap
	@mkdir -p build
	$(PYTHON) -m pytest -nauto $(FORGIVING) $(if $(COVERED),--cov --cov-report=) tests/unit
	$(if $(COVERED),$(PYTHON) -m tests.covered $(COVERED))

# After the unit tests, with make -j as well. Root leaves no files of its own in the checkout.
test-live: build/workload build/golden | test-unit
	$(SUDO) env CI="$(CI)" PYTHONDONTWRITEBYTECODE=1 $(PYTHON) -m pytest -p no:cacheprovider \
		$(FORGIVING) tests/live

test-kernels: build/workload build/golden
	@tools/bootstrap --kernels
	KERNELS="$(KERNELS)" PROBES="$(PROBES)" FULL="$(FULL)" $(PYTHON) -m tests.kernels

test-real:
	@tools/bootstrap --real
	@mkdir -p build/real # not root's, who writes there
	$(SUDO) env CI="$(CI)" PYTHONDONTWRITEBYTECODE=1 $(PYTHON) -m pytest -p no:cacheprovider \
		$(FORGIVING) tests/real

# Other CPythons than the distribution's. In no CI: what these suites have changes.
PYTHONS := trixie:3.13 sid:3.14
test-pythons: bootstrap
	for each in $(PYTHONS); do \
		folder=build/python-$${each#*:}; \
		test -e $$folder || tools/fetch-python $${each%:*} $${each#*:} $$folder || exit 1; \
		$(SUDO) env PAGEFAULT_PYTHON=$$PWD/$$folder/usr/bin/python$${each#*:} \
			PYTHONDONTWRITEBYTECODE=1 $(PYTHON) -m pytest -p no:cacheprovider \
			tests/live/test_python_stacks.py || exit 1; \
	done

# What takes long, in no CI. Curves of what the tracer held are in build/soak.
test-soak: build/workload
	@mkdir -p build/soak # not root's, who writes there
	$(SUDO) env MINUTES="$(MINUTES)" PYTHONDONTWRITEBYTECODE=1 $(PYTHON) -m pytest -s \
		-p no:cacheprovider -o faulthandler_timeout=0 tests/soak

# What is damaged: the names of tests and their files to choose by, all where there are none.
EXAMPLES := 20000
SEED := 1
fuzz: bootstrap
	FUZZ_EXAMPLES="$(EXAMPLES)" FUZZ_SEED="$(SEED)" $(PYTHON) -m pytest -nauto --tb=short \
		-o faulthandler_timeout=0 --hypothesis-seed="$(SEED)" \
		$(if $(FORMATS),-k "$(subst $(eval ) , or ,$(strip $(FORMATS)))") tests/unit/fuzz

build/workload: $(wildcard tests/live/programs/*.[ch]) | bootstrap
	@mkdir -p build
	$(CC) $(CFLAGS) -pthread -o $@ $(filter %.c,$^)

# In several variants: static and stripped, at fixed addresses, with libraries.
build/golden: tests/live/golden.py $(wildcard tests/live/programs/golden/*) | bootstrap
	$(PYTHON) -m tests.live.golden

build/%: bench/%.c
	@mkdir -p build
	$(CC) -O2 -Wall -Wextra -pthread -o $@ $<

# SECTIONS: of it, by name. What a fault costs in instructions is counted by test-kernels.
bench:
	@tools/bootstrap --bench
	$(SUDO) env PYTHONDONTWRITEBYTECODE=1 $(PYTHON) -m bench $(SECTIONS)

lint: bootstrap
	$(PYTHON) -m mypy
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	.venv/bin/clang-format --dry-run --Werror bpf/*.[ch]
	.venv/bin/codespell
	.venv/bin/shellcheck tools/* .ci/run tests/kernels/guest.sh

format: bootstrap
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .
	.venv/bin/clang-format -i bpf/*.[ch]

# Not after bootstrap, which installs by the files that this renews.
lock:
	@tools/lock

install: bootstrap
	@tools/install "$(PREFIX)"

uninstall:
	@tools/install --uninstall "$(PREFIX)"

check-install: bootstrap
	tools/check-install

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find tracer tests bench -name __pycache__ -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv
