# What a developer runs; .ci/run runs the same on a fresh machine. `vet`, `staticcheck` and `test-pkcs11` need a C compiler besides Go,
# `test-pkcs11`, `interop` and `test-postgres` other people's programs.

GO          ?= go
FUZZTIME    ?= 10s
BENCH       ?= .
STATICCHECK  = honnef.co/go/tools/cmd/staticcheck@v0.8.2

.PHONY: all fmt vet staticcheck test test-pkcs11 race fuzz bench soak soak-messages interop test-postgres gen pgo build

all: fmt vet test

fmt:
	gofmt -l -w .

vet:
	$(GO) vet -tags interop,soak ./...
	CGO_ENABLED=1 $(GO) vet -tags pkcs11 ./internal/provider/pkcs11

staticcheck:
	$(GO) run $(STATICCHECK) -tags interop,soak ./...
	CGO_ENABLED=1 $(GO) run $(STATICCHECK) -tags pkcs11 ./internal/provider/pkcs11

test:
	$(GO) test ./...

# Keys in a token, against SoftHSM: needs a C compiler and the package softhsm2.
test-pkcs11:
	CGO_ENABLED=1 $(GO) test -tags pkcs11 ./internal/provider/pkcs11

race:
	$(GO) test -race ./...

# Each fuzz target for FUZZTIME, one after the other, because the go command takes one at a time. Making an input small, which may take a
# minute by default, would use up that time where inputs are long.
fuzz:
	@set -e; for pkg in $$($(GO) list ./...); do \
		for name in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
			echo "== $$pkg $$name"; \
			$(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 100x $$pkg; \
		done; \
	done

bench:
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem ./...

# The platform for SOAK under a modest load of which a part is broken on purpose: does anything stay behind?
SOAK ?= 1h

soak:
	SOAK=$(SOAK) $(GO) test -tags soak -count=1 -timeout 0 -v -run '^TestSoak$$' ./internal/app/soak

# The same of messages: devices that talk by MQTT and CoAP, are cut off, come back all at once, and break the rules.
SOAK_MESSAGES ?= 30m

soak-messages:
	SOAK_MESSAGES=$(SOAK_MESSAGES) $(GO) test -tags soak -count=1 -timeout 0 -v -run '^TestSoakMessages$$' ./internal/app/soak

# Tests named TestInterop... have the build tag interop and talk to other people's programs (curl, openssl, GnuTLS). A program that
# is missing is a failure; an OpenSSL that knows ML-DSA is fetched where the machine's own is older. Which packages have such tests is looked up, so that a new one is not forgotten; that there are any is
# checked, so that the target cannot pass empty.
INTEROP = $(shell grep -rl '^func TestInterop' --include='*_test.go' . | xargs -r -n1 dirname | sort -u)

interop:
	@[ -n "$(INTEROP)" ] || { echo 'no test is named TestInterop...'; exit 1; }
	openssl35=$$(.ci/openssl35) && OPENSSL35=$$openssl35 $(GO) test -tags interop -count=1 -timeout 25m -run '^TestInterop' $(INTEROP)

# The packages that use a database, on a PostgreSQL that is started for the purpose.
DBPACKAGES = $(shell grep -rlE '"mooring/internal/(base/db/dbtest|app/apptest)"|MOORING_TEST_DB' --include='*_test.go' . | xargs -r -n1 dirname | sort -u)

test-postgres:
	.ci/postgres run $(GO) test -count=1 $(DBPACKAGES)

# Makes the profile by which the compiler optimises the program: where a server under load spends its time. Commit it.
pgo:
	$(GO) build -pgo=off -o bin/mooring ./cmd/mooring
	bin/mooring bench enrol --registered 60000 --clients 64 --n 10000 --rounds 4 --cpu-profile cmd/mooring/default.pgo

# Generated files are checked in; CI fails if this changes anything.
gen:
	$(GO) generate ./...

build:
	CGO_ENABLED=0 $(GO) build -trimpath -o mooring ./cmd/mooring
