package cmp

import (
	"crypto/rand"
	"errors"
	"log/slog"

	"mooring/internal/base/errs"
	"mooring/internal/core/enrol"
	"mooring/wire/cmp"
)

// reply builds an answer to the message, protected as the message was. extra are certificates to send along.
func (x *exchange) reply(body cmp.Body, info []cmp.Info, extra [][]byte) ([]byte, error) {
	asked := &x.m.Header
	h := cmp.Header{Version: min(max(asked.Version, 2), 3), Recipient: asked.Sender, Time: x.Now(), Transaction: asked.Transaction, RecipientNonce: asked.SenderNonce, Info: info}
	if r, ok := body.(*cmp.Responses); ok && r.List[0].PrivateKey != nil {
		h.Version = 3 // EnvelopedData
	}
	if h.Transaction == nil {
		h.Transaction = nonce()
	}
	h.SenderNonce = nonce()
	signer, leaf, above := x.Identity()
	if leaf != nil {
		h.Sender = leaf.RawSubject
	}
	var protector cmp.Protector
	var certs [][]byte
	if x.by != nil && x.by.mac != nil {
		done, err := x.turns.wait(x.ctx, x.by.mac)
		if err != nil {
			return nil, err
		}
		defer done()
		mac, err := x.by.mac.Answer(rand.Reader)
		if err != nil {
			return nil, err
		}
		protector, h.SenderKID = mac, asked.SenderKID
	} else {
		if signer == nil {
			return nil, errNoIdentity()
		}
		protector, h.SenderKID = &cmp.Signer{Key: signer, Rand: rand.Reader}, leaf.SubjectKeyId
		certs = append(append(certs, leaf.Raw), above...)
	}
	if x.t != nil {
		x.t.mine = h.SenderNonce
	}
	return cmp.Build(h, body, distinct(append(certs, extra...)), protector)
}

// distinct drops repetitions.
func distinct(certs [][]byte) (list [][]byte) {
	seen := map[string]bool{}
	for _, cert := range certs {
		if !seen[string(cert)] {
			seen[string(cert)] = true
			list = append(list, cert)
		}
	}
	return list
}

func nonce() []byte {
	n := make([]byte, 16)
	rand.Read(n)
	return n
}

// failure is failureOf for this sender.
func (x *exchange) failure(err error) cmp.Failure {
	if f := failureOf(err); f != cmp.SignerNotTrusted || x.by == nil || x.by.mac == nil {
		return f
	}
	return cmp.NotAuthorized // it is no signer
}

// fail answers with an error message. What went wrong here is told to the log, and the sender learns that it did.
func (x *exchange) fail(err error) ([]byte, error) {
	x.tell(err)
	return x.reply(&cmp.Failed{Status: cmp.Refused(x.failure(err), errs.Public(err))}, nil, nil)
}

// tell notes that the message is refused, and has the log say why, as the record does.
func (x *exchange) tell(err error) {
	x.refusal = err
	kind := errs.KindOf(err)
	attrs := []slog.Attr{slog.String("refused", kind.String()), slog.String("reason", enrol.Reason(err)), slog.String("failure", x.failure(err).String())}
	if errors.Is(err, enrol.ErrUnauthenticated) {
		attrs[0] = slog.String("refused", "unauthenticated")
	}
	if kind == errs.Internal {
		attrs = append(attrs, slog.Any("cause", err))
	}
	x.note(attrs...)
}
