// Command checkproof is a stranger's check of a proof that "mooring audit prove" wrote (c2sp.org/tlog-proof): it knows the public key of the
// record and the two packages of the Go checksum database, and nothing of Mooring. It prints the entry that is proven.
//
//	checkproof KEY < PROOF
package main

import (
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"os"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func main() {
	log.SetFlags(0)
	text, err := io.ReadAll(os.Stdin)
	check(err)
	head, checkpoint, _ := strings.Cut(string(text), "\n\n")
	lines := strings.Split(head, "\n")
	if len(os.Args) != 2 || len(lines) < 3 || lines[0] != "c2sp.org/tlog-proof@v1" {
		log.Fatal("use: checkproof KEY < PROOF")
	}
	entry, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(lines[1], "extra "))
	check(err)
	index, err := strconv.ParseInt(strings.TrimPrefix(lines[2], "index "), 10, 64)
	check(err)
	var proof tlog.RecordProof
	for _, line := range lines[3:] {
		h, err := tlog.ParseHash(line)
		check(err)
		proof = append(proof, h)
	}

	key, err := note.NewVerifier(os.Args[1])
	check(err)
	signed, err := note.Open([]byte(checkpoint), note.VerifierList(key))
	check(err)
	// The checkpoint: the record's name, its size, its root hash.
	tree := strings.Split(signed.Text, "\n")
	if len(tree) < 3 || tree[0] != key.Name() {
		log.Fatal("the checkpoint is of another record")
	}
	size, err := strconv.ParseInt(tree[1], 10, 64)
	check(err)
	root, err := tlog.ParseHash(tree[2])
	check(err)
	check(tlog.CheckRecord(proof, size, root, index, tlog.RecordHash(entry)))
	fmt.Printf("%s\n", entry)
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
