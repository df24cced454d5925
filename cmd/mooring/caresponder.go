package main

import (
	"context"
	"io"
	"time"

	"github.com/spf13/cobra"

	"mooring/internal/server/api/client"
	"mooring/internal/server/api/v1"
)

const caRequestResponderHelp = `Makes the key of an OCSP responder for a CA whose key is elsewhere, such as an offline root, and the request for its certificate. Carry the
file there, and compare the SHA-256 of the key, which is printed here, when it is signed ("mooring ca root responder"). Then
"mooring ca import-responder" puts it to use: this server answers OCSP for certificates of that CA, out of its imported list.

It waits among the requests of CAs ("mooring ca requests", "mooring ca withdraw"), as "ocsp:" and the name of the CA. A new one may be asked for
while the one before is valid, and should be, some weeks before that ends.`

const caImportResponderHelp = `Takes in the certificate of an OCSP responder that a CA signed elsewhere, for the key that waits here. From then on it answers for that CA.
What happened at an offline root goes into the audit record with "mooring ca import-record".`

const caRespondersHelp = `Lists the OCSP responders of CAs whose keys are elsewhere that have not ended. Of several the one that ends last answers. "mooring ca root revoke"
takes one back: with the next list that is imported it answers no more.`

func (c *cli) caResponderCommands() []*cobra.Command {
	var n v1.NewResponder
	var file string
	request := &cobra.Command{
		Use: "request-responder CA", Short: "Make an OCSP responder for an offline CA", Long: caRequestResponderHelp,
		Example: "  mooring ca request-responder root -o responder.csr",
		Args:    needs("CA"),
		RunE: c.online(func(ctx context.Context, s *client.Client, args []string) error {
			if err := free(file); err != nil {
				return err
			}
			n.CA = args[0]
			r, err := s.RequestResponder(ctx, n)
			if err != nil {
				return err
			}
			return c.requestWritten(r, file)
		}),
	}
	flags := request.Flags()
	flags.SortFlags = false
	flags.StringVar(&n.Algorithm, "algorithm", "", "kind of key (default ec-p256, or the CA's own where that is ML-DSA)")
	flags.StringVar(&n.Custody, "custody", "", "where its key is kept: file or pkcs11 (default as keys.custody says)")
	flags.StringVarP(&file, "out", "o", "", "file to write; must not exist (default standard output)")
	return []*cobra.Command{request, {
		Use: "import-responder FILE", Short: "Take in the certificate of an OCSP responder", Long: caImportResponderHelp,
		Example: "  mooring ca import-responder responder.pem",
		Args:    needs("FILE"),
		RunE: c.online(func(ctx context.Context, s *client.Client, args []string) error {
			text, err := readFile(args[0])
			if err != nil {
				return err
			}
			r, err := s.ImportResponder(ctx, string(text))
			if err != nil {
				return err
			}
			return c.respondersPrint([]v1.Responder{r})
		}),
	}, {
		Use: "responders", Short: "List the OCSP responders of offline CAs", Long: caRespondersHelp,
		Example: "  mooring ca responders",
		Args:    needs(),
		RunE: c.online(func(ctx context.Context, s *client.Client, _ []string) error {
			all, err := s.Responders(ctx)
			if err != nil {
				return err
			}
			return c.respondersPrint(all)
		}),
	}}
}

func (c *cli) respondersPrint(all []v1.Responder) error {
	return c.show(v1.ResponderList{Responders: all}, func(w io.Writer) {
		row(w, "CA", "SERIAL", "ENDS", "")
		for _, r := range all {
			state := ""
			switch {
			case r.Revoked:
				state = "revoked"
			case r.Answers:
				state = "answers"
			}
			row(w, r.CA, r.Serial, within(r.NotAfter, time.Now()), state)
		}
	})
}
