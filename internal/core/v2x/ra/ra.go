// Package ra is the part of an enrolment authority that gets vehicles many tickets with one request, by butterfly key expansion (TS 102 941, 6.2.3.5); in IEEE 1609.2.1 it is a
// registration authority of its own.
package ra
