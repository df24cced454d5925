// Package soak runs the platform for a long time under a modest load by all protocols of which a part is broken on purpose, and looks whether
// anything is left behind: goroutines, memory, open files.
//
//	make soak
//
// The server is a process of its own, which tells how many goroutines it has and how much memory is in use after a collection. Devices of ours
// enrol, renew, are revoked, ask for status and go away. Clients of the same kind have their octets harmed on the way: a bit flips, the
// connection is cut or falls silent, a part comes twice, 128 KiB come that nobody sent, media types are wrong; datagrams of DTLS likewise.
// Others give up in the middle, and strangers talk nonsense. No well-behaved device may notice.
//
// It compares two moments without any client, after the first minutes of load and after all of it. It deliberately measures no speed.
// A second test, make soak-messages, does the same to what carries messages: devices connect by MQTT and CoAP, talk, go with or without a word, lose their
// connections all at once, and are suspended while they talk; others harm octets on the way and inside TLS, claim to be somebody else, flood and talk nonsense.
//
// There is no code but that of the test, which has the build tag soak.
package soak
