//go:build pkcs11

package pkcs11

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"slices"

	"github.com/miekg/pkcs11"

	"mooring/internal/base/errs"
	"mooring/internal/core/key"
)

// Of PKCS #11 3.0, which the module of constants does not have.
const (
	ckkEdwards            = 0x40
	ckmEdwardsKeyPairGen  = 0x1055
	ckmEdDSA              = 0x1057
	idLength              = 16
	maxKeys               = 100_000 // in a token; more is a mistake
	attributeNotAvailable = ^uint(0)
)

// recipe is how a kind of key is made and used.
type recipe struct {
	generate, sign uint                // mechanisms
	public         []*pkcs11.Attribute // what the public template says besides
}

func recipeFor(alg key.Algorithm) (recipe, bool) {
	ec := func(mechanism, sign, kind uint, oid []byte) recipe {
		return recipe{mechanism, sign, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, kind), pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, oid)}}
	}
	rsa := func(bits int) recipe {
		return recipe{pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN, pkcs11.CKM_RSA_PKCS, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_RSA),
			pkcs11.NewAttribute(pkcs11.CKA_MODULUS_BITS, bits), pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1})}}
	}
	switch alg {
	case key.P256:
		return ec(pkcs11.CKM_EC_KEY_PAIR_GEN, pkcs11.CKM_ECDSA, pkcs11.CKK_EC, oidP256()), true
	case key.P384:
		return ec(pkcs11.CKM_EC_KEY_PAIR_GEN, pkcs11.CKM_ECDSA, pkcs11.CKK_EC, oidP384()), true
	case key.Ed25519:
		return ec(ckmEdwardsKeyPairGen, ckmEdDSA, ckkEdwards, oidEd25519()), true
	case key.RSA2048:
		return rsa(2048), true
	case key.RSA3072:
		return rsa(3072), true
	case key.RSA4096:
		return rsa(4096), true
	}
	return recipe{}, false
}

// generated is a new key pair.
type generated struct {
	id  key.ID
	pub crypto.PublicKey
}

// Generate makes a key pair in the token, which keeps it durably, and reads back that the private key can neither be read nor wrapped. An
// algorithm that the token does not have is an error of kind Invalid.
func (t *token) Generate(ctx context.Context, alg key.Algorithm, label string) (key.ID, crypto.PublicKey, error) {
	r, ok := recipeFor(alg)
	if !ok {
		return "", nil, errs.New(errs.Invalid, "keys of kind %q cannot be made in a PKCS #11 token: use %s, %s, %s, or have this key in a file (--custody file)", alg, key.P256, key.P384, key.RSA3072)
	}
	if len(label) > 200 {
		return "", nil, errs.New(errs.Invalid, "the key's label is longer than 200 octets")
	}
	g, err := do(ctx.Done(), t, max(t.o.Wait, waitForKey), func(l *login, s pkcs11.SessionHandle) (generated, error) { return t.generate(l, s, alg, r, label) })
	return g.id, g.pub, err
}

func (t *token) generate(l *login, s pkcs11.SessionHandle, alg key.Algorithm, r recipe, label string) (g generated, err error) {
	for _, mechanism := range []uint{r.generate, r.sign} {
		if _, err := t.module.GetMechanismInfo(l.slot, []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)}); err != nil {
			if isCode(err, pkcs11.CKR_MECHANISM_INVALID) {
				err = errs.Wrap(errs.Invalid, err, "the token %q has no keys of kind %q: use another kind, or have this key in a file (--custody file)", t.o.Token, alg)
			}
			return g, err
		}
	}
	var random [idLength]byte
	if _, err := rand.Read(random[:]); err != nil {
		return g, err
	}
	common := []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_ID, random[:]), pkcs11.NewAttribute(pkcs11.CKA_LABEL, label)}
	public := slices.Concat(common, r.public, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, false), pkcs11.NewAttribute(pkcs11.CKA_VERIFY, true)})
	private := slices.Concat(common, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true), pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false), pkcs11.NewAttribute(pkcs11.CKA_SIGN, true)})
	pub, priv, err := t.module.GenerateKeyPair(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(r.generate, nil)}, public, private)
	if err != nil {
		return g, err
	}
	defer func() {
		if err != nil { // nobody will ever ask for this key
			err = errors.Join(err, t.module.DestroyObject(s, pub), t.module.DestroyObject(s, priv))
		}
	}()
	if err := t.checkSealed(s, priv, pkcs11.CKA_TOKEN, pkcs11.CKA_SENSITIVE, pkcs11.CKA_ALWAYS_SENSITIVE, pkcs11.CKA_NEVER_EXTRACTABLE); err != nil {
		return g, err
	}
	g.id = key.ID(hex.EncodeToString(random[:]))
	if g.pub, err = t.publicOf(s, pub); err != nil {
		return g, err
	}
	if got, _ := key.AlgorithmOf(g.pub); got != alg {
		return g, errs.New(errs.Unavailable, "the token %q made a key of kind %q instead of %q", t.o.Token, got, alg)
	}
	return g, nil
}

// checkSealed reads back that a private key cannot leave the token: each of the attributes is true, and CKA_EXTRACTABLE is false. Some tokens take
// what the template asks for without doing it.
func (t *token) checkSealed(s pkcs11.SessionHandle, priv pkcs11.ObjectHandle, isTrue ...uint) error {
	for _, a := range append(isTrue, pkcs11.CKA_EXTRACTABLE) {
		got, err := t.attribute(s, priv, a)
		if err != nil {
			return err
		}
		if want := a != pkcs11.CKA_EXTRACTABLE; len(got) != 1 || (got[0] != 0) != want {
			return errs.New(errs.Unavailable, "the token %q does not keep the key to itself: it is not sensitive, or extractable, or not permanent; use another token", t.o.Token)
		}
	}
	return nil
}

func (t *token) attribute(s pkcs11.SessionHandle, object pkcs11.ObjectHandle, kind uint) ([]byte, error) {
	got, err := t.module.GetAttributeValue(s, object, []*pkcs11.Attribute{pkcs11.NewAttribute(kind, nil)})
	if err != nil {
		return nil, err
	}
	return got[0].Value, nil
}

// publicOf reads a public key object.
func (t *token) publicOf(s pkcs11.SessionHandle, pub pkcs11.ObjectHandle) (crypto.PublicKey, error) {
	kind, err := t.attribute(s, pub, pkcs11.CKA_KEY_TYPE)
	if err != nil {
		return nil, err
	}
	if number(kind) == pkcs11.CKK_RSA {
		n, err := t.attribute(s, pub, pkcs11.CKA_MODULUS)
		if err != nil {
			return nil, err
		}
		e, err := t.attribute(s, pub, pkcs11.CKA_PUBLIC_EXPONENT)
		if err != nil {
			return nil, err
		}
		return rsaKey(n, e)
	}
	params, err := t.attribute(s, pub, pkcs11.CKA_EC_PARAMS)
	if err != nil {
		return nil, err
	}
	point, err := t.attribute(s, pub, pkcs11.CKA_EC_POINT)
	if err != nil {
		return nil, err
	}
	return curveKey(params, point)
}

// number reads a CK_ULONG, which has the machine's size and order.
func number(b []byte) uint {
	switch len(b) {
	case 4:
		return uint(nativeUint32(b))
	case 8:
		return uint(nativeUint64(b))
	}
	return attributeNotAvailable
}

// Signer returns the key with the id. Its public key is read once; whether the token still has the key shows when it signs.
func (t *token) Signer(ctx context.Context, id key.ID) (crypto.Signer, error) {
	if s, ok := t.signers.Load(id); ok {
		return s.(*signer), nil
	}
	info, pub, err := t.look(ctx, id)
	if errs.Is(err, errs.NotFound) {
		err = errs.Wrap(errs.Unavailable, err, "%s", errs.Public(err))
	}
	if err != nil {
		return nil, err
	}
	r, ok := recipeFor(info.Algorithm)
	if !ok {
		return nil, errs.New(errs.Unavailable, "the key %s in the token %q is of a kind that is not used here", id, t.o.Token)
	}
	s, _ := t.signers.LoadOrStore(id, &signer{token: t, info: info, pub: pub, mechanism: r.sign})
	return s.(*signer), nil
}

// handle returns the private key with the id. The caller's session belongs to l.
func (t *token) handle(l *login, s pkcs11.SessionHandle, id key.ID) (pkcs11.ObjectHandle, error) {
	found, err := t.handles(l, s, id)
	if err != nil {
		return 0, err
	}
	return found[0], nil
}

// handles returns the private and the public key with the id.
func (t *token) handles(l *login, s pkcs11.SessionHandle, id key.ID) ([]pkcs11.ObjectHandle, error) {
	t.mu.Lock()
	known := l.keys[id]
	t.mu.Unlock()
	if known != nil {
		return known, nil
	}
	raw, err := hex.DecodeString(string(id))
	if err != nil || len(raw) != idLength {
		return nil, errs.New(errs.NotFound, "there is no key %q in the token %q", id, t.o.Token)
	}
	for _, class := range []uint{pkcs11.CKO_PRIVATE_KEY, pkcs11.CKO_PUBLIC_KEY} {
		objects, err := t.search(s, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, class), pkcs11.NewAttribute(pkcs11.CKA_ID, raw)}, 2)
		switch {
		case err != nil:
			return nil, err
		case len(objects) == 0 && class == pkcs11.CKO_PRIVATE_KEY:
			return nil, errs.New(errs.NotFound, "there is no key %s in the token %q: plug in the right one, or restore the token from its backup", id, t.o.Token)
		case len(objects) == 0:
			return nil, errs.New(errs.Unavailable, "the token %q has the private key %s without its public key: restore the token from its backup", t.o.Token, id)
		case len(objects) > 1:
			return nil, errs.New(errs.Unavailable, "the token %q has two keys with the id %s: remove the wrong one", t.o.Token, id)
		}
		known = append(known, objects[0])
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	l.keys[id] = known
	return known, nil
}

// search returns at most so many objects that fit the template.
func (t *token) search(s pkcs11.SessionHandle, template []*pkcs11.Attribute, most int) ([]pkcs11.ObjectHandle, error) {
	if err := t.module.FindObjectsInit(s, template); err != nil {
		return nil, err
	}
	var all []pkcs11.ObjectHandle
	for len(all) < most {
		found, _, err := t.module.FindObjects(s, min(most-len(all), 100))
		if err != nil {
			return nil, err
		}
		if len(found) == 0 {
			break
		}
		all = append(all, found...)
	}
	return all, t.module.FindObjectsFinal(s)
}

// IDs lists the private keys whose ids have our form, in their order.
func (t *token) IDs(ctx context.Context) ([]key.ID, error) {
	return do(ctx.Done(), t, t.o.Wait, func(_ *login, s pkcs11.SessionHandle) ([]key.ID, error) {
		objects, err := t.search(s, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY)}, maxKeys)
		if err != nil {
			return nil, err
		}
		ids := []key.ID{}
		for _, o := range objects {
			raw, err := t.attribute(s, o, pkcs11.CKA_ID)
			if err != nil {
				return nil, err
			}
			if len(raw) == idLength {
				ids = append(ids, key.ID(hex.EncodeToString(raw)))
			}
		}
		slices.Sort(ids)
		return ids, nil
	})
}

// Inspect describes a key as the token has it now.
func (t *token) Inspect(ctx context.Context, id key.ID) (key.Info, error) {
	info, _, err := t.look(ctx, id)
	return info, err
}

// look reads a key from the token: NotFound when it is not there.
func (t *token) look(ctx context.Context, id key.ID) (key.Info, crypto.PublicKey, error) {
	type looked struct {
		info key.Info
		pub  crypto.PublicKey
	}
	found, err := do(ctx.Done(), t, t.o.Wait, func(l *login, s pkcs11.SessionHandle) (k looked, err error) {
		objects, err := t.handles(l, s, id)
		if err != nil {
			return k, err
		}
		if err := t.checkSealed(s, objects[0], pkcs11.CKA_SENSITIVE); err != nil {
			return k, err
		}
		label, err := t.attribute(s, objects[0], pkcs11.CKA_LABEL)
		if err != nil {
			return k, err
		}
		if k.pub, err = t.publicOf(s, objects[1]); err != nil {
			return k, err
		}
		der, err := x509.MarshalPKIXPublicKey(k.pub)
		if err != nil {
			return k, err
		}
		alg, _ := key.AlgorithmOf(k.pub)
		k.info = key.Info{ID: id, Label: string(label), Algorithm: alg, SPKI: sha256.Sum256(der)}
		return k, nil
	})
	return found.info, found.pub, err
}
