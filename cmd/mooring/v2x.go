package main

import (
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"mooring/internal/base/errs"
	"mooring/wire/coer"
	"mooring/wire/its"
)

const v2xHelp = `Looks at the messages and certificates of vehicles (V2X), and verifies them: IEEE 1609.2 and 1609.2.1, ETSI TS 103 097 and TS 102 941.
That needs no server. Makes and runs the authorities that issue such certificates, and runs a fleet of vehicles through them.`

const v2xShowHelp = `Shows what is in a file: a certificate, a message, a trust list, a revocation list, a request or its answer, with the names of the standards.
What lies unencrypted in a message is shown in its place. The file has the octets of the structure (COER), their hexadecimal digits,
or a ticket or credential with its keys, as "mooring agent v2x" keeps it: of that the certificate is shown.

Which structure it is, is found out; --type names it where that does not work. What is not exactly as the rules demand is refused with the
component and the octet where it goes wrong.

Of a certificate the HashedId8 is shown, by which others refer to it.

With --json everything is printed much as the JSON encoding rules of ASN.1 would have it: numbers as in the structure, octets as hexadecimal digits.`

func (c *cli) v2xCommand() *cobra.Command {
	return group(&cobra.Command{
		Use: "v2x", Short: "See to the certificates of vehicles", Long: v2xHelp,
		Example: "  mooring v2x show E7A4B2B045E7ACF9.oer\n  mooring v2x verify ticket.oer --root root.oer --known ctl.oer",
	}, c.v2xShowCommand(), c.v2xVerifyCommand(), c.v2xInitCommand(), c.v2xProfilesCommand(), c.v2xRCACommand(), c.v2xEACommand(), c.v2xAACommand(), c.v2xTLMCommand(), c.v2xDCCommand(), c.v2xSimulateCommand())
}

func (c *cli) v2xShowCommand() *cobra.Command {
	var as string
	cmd := &cobra.Command{
		Use: "show FILE", Short: "Show what is in a certificate, message or list", Long: v2xShowHelp,
		Example: "  mooring v2x show E7A4B2B045E7ACF9.oer\n  mooring v2x show key.hex --type PublicVerificationKey --json",
		Args:    needs("FILE"),
		RunE:    func(_ *cobra.Command, args []string) error { return c.v2xShow(args[0], as) },
	}
	cmd.Flags().StringVar(&as, "type", "", "name of the structure in its ASN.1 module, such as Certificate or EtsiTs102941Data")
	_ = cmd.RegisterFlagCompletionFunc("type", cobra.FixedCompletions(its.Names(), cobra.ShellCompDirectiveNoFileComp)) // fails only without the flag
	return cmd
}

// shownV2X is a structure as the program prints it.
type shownV2X struct {
	Type      string     `json:"type"`
	HashedId8 string     `json:"hashed_id8,omitempty"`
	Octets    int        `json:"octets"`
	Value     *coer.Node `json:"value"`
}

func (c *cli) v2xShow(path, as string) error {
	b, err := readOctets(path)
	if err != nil {
		return err
	}
	name, v, err := readV2X(b, as)
	if err != nil {
		return err
	}
	s := shownV2X{Type: name, Octets: len(b), Value: coer.Describe(v)}
	if cert, ok := v.(*its.Certificate); ok {
		if id, err := cert.HashedId8(); err == nil {
			s.HashedId8 = id.String()
		}
	}
	return c.show(s, func(w io.Writer) {
		head := fmt.Sprintf("%s, %d octets", s.Type, s.Octets)
		if s.HashedId8 != "" {
			head += ", HashedId8 " + s.HashedId8
		}
		fmt.Fprintln(w, head)
		io.WriteString(w, s.Value.String())
	})
}

// stationCertificate is the PEM block with a certificate in the files of a station.
const stationCertificate = "ITS CERTIFICATE"

// readOctets reads a file of octets, or of their hexadecimal digits, or the certificate from a file of a station.
func readOctets(path string) ([]byte, error) {
	b, err := readFile(path)
	if err != nil {
		return nil, err
	}
	if block, _ := pem.Decode(b); block != nil {
		if block.Type != stationCertificate {
			return nil, errs.New(errs.Invalid, "%s holds a %s in PEM. Certificates and messages of V2X are octets: that of the root is in the file that mooring v2x init --root wrote", path, block.Type)
		}
		return block.Bytes, nil
	}
	digits := strings.Join(strings.Fields(string(b)), "")
	if octets, err := hex.DecodeString(digits); err == nil && len(octets) > 0 {
		return octets, nil
	}
	return b, nil
}

// readV2X reads a structure of the named type, or of the first that fits.
func readV2X(b []byte, as string) (string, coer.Value, error) {
	if as == "" {
		name, v, err := its.Recognise(b)
		if err != nil {
			return "", nil, errs.Wrap(errs.Invalid, err, "this is no structure that is recognised; it comes closest to %s", name)
		}
		return name, v, nil
	}
	v := its.Make(as)
	if v == nil {
		return "", nil, usagef("--type: there is no structure %q: use one of %s", as, strings.Join(its.Names(), ", "))
	}
	if err := coer.Unmarshal(b, v); err != nil {
		return "", nil, errs.Wrap(errs.Invalid, err, "this is no %s", as)
	}
	return as, v, nil
}
