package acme

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"net/mail"
	"strings"

	"mooring/internal/base/errs"
	"mooring/internal/base/web"
	core "mooring/internal/core/acme"
	"mooring/wire/acme"
)

// newAccount answers RFC 8555, section 7.3.
func (s *server) newAccount(c *call) (*answer, error) {
	var n acme.NewAccount
	if err := c.object(&n); err != nil {
		return nil, err
	}
	if bound := len(n.ExternalAccountBinding) > 0 && string(n.ExternalAccountBinding) != "null"; bound && !n.OnlyReturnExisting {
		if a, err := s.makeAccount(c, &n); err == nil { // whoever brings a binding has no account yet, as a rule
			return a, nil
		} else if known, knownErr := s.knownAccount(c); knownErr == nil || !errors.Is(knownErr, core.AccountDoesNotExist) {
			return known, knownErr
		} else {
			return nil, err
		}
	}
	known, err := s.knownAccount(c)
	switch {
	case !errors.Is(err, core.AccountDoesNotExist):
		return known, err
	case n.OnlyReturnExisting:
		return nil, refuse(errs.Invalid, core.AccountDoesNotExist, "there is no account with this key")
	}
	return s.makeAccount(c, &n)
}

// knownAccount shows the account of the key that signed. The error is AccountDoesNotExist when there is none.
func (s *server) knownAccount(c *call) (*answer, error) {
	known, err := s.ACME.ByKey(c.Context(), c.message.Key)
	if err != nil {
		return nil, err
	}
	if known.State != core.Valid {
		return nil, errs.Wrap(errs.Denied, errEnded{}, "the account of this key is %s: use another key", known.State)
	}
	return s.accountAnswer(http.StatusOK, &known), nil
}

func (s *server) makeAccount(c *call, n *acme.NewAccount) (*answer, error) {
	if err := checkContacts(n.Contact); err != nil {
		return nil, err
	}
	if s.Terms != "" && !n.TermsOfServiceAgreed {
		return nil, refuse(errs.Denied, core.UserActionRequired, "the terms of service at %s must be agreed to", s.Terms)
	}
	who := core.Newcomer{Key: c.message.Key, Source: web.Address(c.Request)}
	if len(n.ExternalAccountBinding) > 0 && string(n.ExternalAccountBinding) != "null" {
		var err error
		if who.Binding, err = s.binding(c, n.ExternalAccountBinding); err != nil {
			return nil, err
		}
		who.Raw = n.ExternalAccountBinding
	}
	a, made, err := s.ACME.NewAccount(c.Context(), who)
	if err != nil {
		return nil, err
	}
	status := http.StatusOK
	if made {
		status = http.StatusCreated
	}
	return s.accountAnswer(status, &a), nil
}

// binding reads an external account binding (section 7.3.4); its MAC is core's affair.
func (s *server) binding(c *call, raw json.RawMessage) (*acme.Message, error) {
	b, err := acme.ParseBinding(raw)
	switch {
	case err != nil:
		return nil, refuse(errs.Invalid, core.Malformed, "the external account binding cannot be read: %v", err)
	case b.URL != c.message.URL:
		return nil, refuse(errs.Invalid, core.Malformed, "the external account binding is for another address than the request")
	}
	if !c.message.HasKey(b.Payload) {
		return nil, refuse(errs.Invalid, core.Malformed, "the external account binding is for another key than the account's")
	}
	return b, nil
}

// checkContacts accepts what RFC 8555, section 7.3, accepts. Nothing of it is kept.
func checkContacts(contacts []string) error {
	if len(contacts) > 10 {
		return refuse(errs.Invalid, core.InvalidContact, "more than 10 contacts")
	}
	for _, contact := range contacts {
		address, isMail := strings.CutPrefix(contact, "mailto:")
		if !isMail {
			return refuse(errs.Invalid, core.UnsupportedContact, "contacts begin with mailto:")
		}
		if parsed, err := mail.ParseAddress(address); err != nil || parsed.Address != address || strings.ContainsAny(address, "?,") {
			return refuse(errs.Invalid, core.InvalidContact, "a contact is one mail address without header fields")
		}
	}
	return nil
}

func (s *server) accountURL(id core.ID) string { return s.Base + pathAccount + id.String() }

func (s *server) accountAnswer(status int, a *core.Account) *answer {
	body := acme.Account{Status: a.State.String(), TermsOfServiceAgreed: s.Terms != "", Orders: s.accountURL(a.ID) + "/orders"}
	if len(a.Binding) > 0 {
		body.ExternalAccountBinding = a.Binding
	}
	return &answer{status: status, location: s.accountURL(a.ID), body: body}
}

// own refuses the address of another account.
func (c *call) own() error {
	if c.PathValue("account") != c.account.ID.String() {
		return refuse(errs.Denied, core.Unauthorized, "this is another account's address")
	}
	return nil
}

// account shows the account, or changes it (sections 7.3.2 and 7.3.6).
func (s *server) account(c *call) (*answer, error) {
	if err := c.own(); err != nil {
		return nil, err
	}
	if len(c.message.Payload) == 0 {
		return s.accountAnswer(http.StatusOK, c.account), nil
	}
	var u acme.AccountUpdate
	if err := c.object(&u); err != nil {
		return nil, err
	}
	switch u.Status {
	case "", acme.StatusValid:
		if err := checkContacts(u.Contact); err != nil {
			return nil, err
		}
		return s.accountAnswer(http.StatusOK, c.account), nil
	case acme.StatusDeactivated:
		a, err := s.ACME.Deactivate(c.Context(), *c.account, web.Address(c.Request))
		if err != nil {
			return nil, err
		}
		return s.accountAnswer(http.StatusOK, &a), nil
	}
	return nil, refuse(errs.Invalid, core.Malformed, "a client may change an account's status to deactivated only")
}

func (s *server) orders(c *call) (*answer, error) {
	if err := c.own(); err != nil {
		return nil, err
	}
	if err := c.asGet(); err != nil {
		return nil, err
	}
	ids, err := s.ACME.Orders(c.Context(), c.account)
	if err != nil {
		return nil, err
	}
	list := struct {
		Orders []string `json:"orders"`
	}{make([]string, len(ids))}
	for i, id := range ids {
		list.Orders[i] = s.orderURL(id)
	}
	return &answer{body: list}, nil
}

// keyChange answers section 7.3.5. The checks are numbered as there.
func (s *server) keyChange(c *call) (*answer, error) {
	inner, err := acme.Parse(c.message.Payload) // 2 and 3: a JWS with jwk
	switch {
	case errors.Is(err, acme.ErrAlgorithm):
		return nil, refuse(errs.Invalid, core.BadSignatureAlgorithm, "the inner message: %v", err)
	case errors.Is(err, acme.ErrKey):
		return nil, refuse(errs.Invalid, core.BadPublicKey, "the inner message: %v", err)
	case err != nil:
		return nil, refuse(errs.Invalid, core.Malformed, "the inner message cannot be read: %v", err)
	case inner.Key == nil || inner.Nonce != "":
		return nil, refuse(errs.Invalid, core.Malformed, "the inner message has its key in jwk and no nonce")
	case inner.Verify(inner.Key) != nil: // 4
		return nil, refuse(errs.Invalid, core.Malformed, "the inner message is not signed with the new key")
	case inner.URL != c.message.URL: // 6
		return nil, refuse(errs.Invalid, core.Malformed, "the inner message is for another address than the outer one")
	}
	var change acme.KeyChange // 5
	if err := (&call{message: inner}).object(&change); err != nil {
		return nil, err
	}
	old, err := acme.ParseKey(change.OldKey)
	switch {
	case change.Account != s.accountURL(c.account.ID): // 7
		return nil, refuse(errs.Invalid, core.Malformed, "the inner message is about another account")
	case err != nil || !bytes.Equal(old.Thumbprint[:], c.account.Key.Thumbprint[:]): // 8
		return nil, refuse(errs.Invalid, core.Malformed, "the old key in the inner message is not the account's")
	}
	holder, err := s.ACME.Rekey(c.Context(), *c.account, inner.Key, web.Address(c.Request)) // 9
	if err != nil {
		if holder.ID != (core.ID{}) {
			err = &located{err, s.accountURL(holder.ID)}
		}
		return nil, err
	}
	a, err := s.ACME.AccountNow(c.Context(), c.account.ID)
	if err != nil {
		return nil, err
	}
	return s.accountAnswer(http.StatusOK, &a), nil
}

// located is a refusal that tells of a place.
type located struct {
	error
	place string
}

func (l *located) Unwrap() error { return l.error }
