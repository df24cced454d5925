// Package interop holds no code, only tests: it lets other people's programs use a real "mooring serve", as strangers would. They are curl,
// OpenSSL, GnuTLS's certtool and ocsptool, libcoap's clients, mosquitto with its clients, Eclipse Paho, nats-server, zlint, and a reader of audit proofs that is built on golang.org/x/mod alone. The commands
// of doc/enrol-est.md are among the tests, so that the page is true.
//
// The tests have the build tag interop and run by
//
//	make interop
//
// on SQLite and, where MOORING_TEST_DB names a PostgreSQL server, on a schema of its own there as well. A program that is missing is a
// failure. The package deliberately reaches into nothing: what it cannot see over a socket, in a file or in the output of a command it
// does not test.
package interop
