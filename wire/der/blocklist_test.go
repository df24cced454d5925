package der_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"mooring/wire/der"
)

// debianModulus is of a key that Debian's generator made: openssl 0.9.8g-8, amd64, unreadable ~/.rnd, process 1000
// (github.com/HARICA-official/debian-weak-keys).
const debianModulus = "ceb8aaaba94464051514c8f3670e1fe77d6820d7e81f74b251c3ed8b388cf8b67534a32a074a9c175a5115a27a67aef399cc30aa2da4de18e6311e3be0b226f4" +
	"ebc6045ecb807fab7940d69cb3a492cf1e70887db026466d45c72276f4c21f52bbda0561fb17babd5af3a13323276630d547d4df6a9a5f413dddfb000335df71" +
	"bba036f6f20428ade06ed15744ccf9a37e0f299348dc17eb6437c9ec6acc1967b48b549fda2cd1c77c15f9fbff6b823454cd7b6450d0cda62cc84cd7cb95d922" +
	"89f64be8d91f314e1c074ea3c42c754d1653b620c280da74d58b2700c3c78281a5c5b371025119c23d2a43dd1a3c2e4c9d32b99b4acdfd05b7f7c5cebe78f999"

// Its fingerprints, as openssl, sha1sum and sha256sum compute them.
const (
	debianShort = "49d96fae9bfc0e84bba3"
	debianLong  = "6a5fe0a26ec49ea11eda6c6c05ee63f01c8dda392fc771b6ececd2efe4f3f039"
)

func TestBlocklist(t *testing.T) {
	n, _ := new(big.Int).SetString(debianModulus, 16)
	debian := &rsa.PublicKey{N: n, E: 65537}
	other := &rsa.PublicKey{N: new(big.Int).Add(n, big.NewInt(2)), E: 65537}
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := curve.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	x := sha256.Sum256([]byte(strings.TrimLeft(string(point[1:33]), "\x00")))
	for _, c := range []struct {
		name, text    string
		debian, curve bool
		size          int
	}{
		{"openssl-blacklist", "# comment\n00000000000000000000\n" + debianShort + "\nffffffffffffffffffff\n", true, false, 3},
		{"in capitals, without a last line end", strings.ToUpper(debianShort), true, false, 1},
		{"dwk_blocklists", strings.Repeat("0", 64) + "\r\n" + debianLong + "\r\n", true, false, 2},
		{"a curve", hex.EncodeToString(x[:]) + "\n", false, true, 1},
		{"the same twice", debianShort + "\n" + debianShort + "\n", true, false, 1},
		{"another key", "49d96fae9bfc0e84bba4\n", false, false, 1},
		{"empty", "\n\n# nothing\n", false, false, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, err := der.ParseBlocklist([]byte(c.text))
			if err != nil {
				t.Fatal(err)
			}
			if b.Len() != c.size || b.Has(debian) != c.debian || b.Has(curve.Public()) != c.curve || b.Has(other) || b.Has(nil) {
				t.Errorf("of %d keys: Debian's %t, the curve's %t, another %t", b.Len(), b.Has(debian), b.Has(curve.Public()), b.Has(other))
			}
			both := new(der.Blocklist)
			both.Merge(b)
			both.Merge(b)
			if both.Len() != c.size || both.Has(debian) != c.debian {
				t.Errorf("merged with itself it has %d keys", both.Len())
			}
		})
	}
	for _, c := range []struct{ name, text, want string }{
		{"not hexadecimal", debianShort + "\nhello\n", `line 2: a fingerprint has 20 or 64 hexadecimal digits, this is "hello"`},
		{"too short", "49d96fae9bfc0e84bb\n", `line 1: a fingerprint has 20 or 64 hexadecimal digits, this is "49d96fae9bfc0e84bb"`},
		{"too long", strings.Repeat("0", 1000), fmt.Sprintf("line 1: a fingerprint has 20 or 64 hexadecimal digits, this is %q", strings.Repeat("0", 65))},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := der.ParseBlocklist([]byte(c.text)); err == nil || err.Error() != c.want {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

func FuzzParseBlocklist(f *testing.F) {
	f.Add([]byte("# x\n" + debianShort + "\n" + debianLong))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := der.ParseBlocklist(data)
		if err == nil && b.Len() > len(data)/20 {
			t.Errorf("%d keys in %d octets", b.Len(), len(data))
		}
	})
}
