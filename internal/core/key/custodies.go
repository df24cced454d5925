package key

import (
	"context"
	"crypto"
	"slices"
	"strings"

	"mooring/internal/base/errs"
)

// Place names a custody among several.
type Place string

// The custodies there are. Ids of keys in files stand alone, as "9f40cb43a8d7f4d5"; all others begin with their place, as "pkcs11:2fa6…".
const (
	InFile  Place = "file"
	InToken Place = "pkcs11"
)

// Place returns where the key is kept.
func (id ID) Place() Place {
	if place, _, ok := strings.Cut(string(id), ":"); ok {
		return Place(place)
	}
	return InFile
}

// local is the id as the custody itself knows it.
func (id ID) local() ID {
	if _, rest, ok := strings.Cut(string(id), ":"); ok {
		return ID(rest)
	}
	return id
}

func (p Place) global(id ID) ID {
	if p == InFile {
		return id
	}
	return ID(p) + ":" + id
}

// Custodies are several custodies as one: a key's id says which of them has it, so that an installation can have some CAs in files and others
// in a token, and can move from one to the other by new CAs.
type Custodies struct {
	standard Place
	places   map[Place]Custody
}

// NewCustodies puts custodies together. New keys are made in the standard one unless something else is asked for.
func NewCustodies(standard Place, places map[Place]Custody) *Custodies {
	return &Custodies{standard, places}
}

// Generate makes a key in the standard custody.
func (c *Custodies) Generate(ctx context.Context, alg Algorithm, label string) (ID, crypto.PublicKey, error) {
	return c.GenerateIn(ctx, c.standard, alg, label)
}

// GenerateIn makes a key in a certain custody; "" is the standard one. One that is not set up here is an error of kind Invalid.
func (c *Custodies) GenerateIn(ctx context.Context, place Place, alg Algorithm, label string) (ID, crypto.PublicKey, error) {
	if place == "" {
		place = c.standard
	}
	custody := c.places[place]
	switch {
	case custody != nil:
	case place == InToken:
		return "", nil, errs.New(errs.Invalid, "no PKCS #11 token is set up here: set keys.pkcs11.module, keys.pkcs11.token and keys.pkcs11.pin_file, then start again")
	default:
		return "", nil, errs.New(errs.Invalid, "there is no custody %q: use one of %v", place, c.names())
	}
	id, pub, err := custody.Generate(ctx, alg, label)
	if err != nil {
		return "", nil, err
	}
	return place.global(id), pub, nil
}

func (c *Custodies) names() []Place {
	var names []Place
	for place := range c.places {
		names = append(names, place)
	}
	slices.Sort(names)
	return names
}

// Signer returns the key from where it is kept.
func (c *Custodies) Signer(ctx context.Context, id ID) (crypto.Signer, error) {
	custody, err := c.of(id)
	if err != nil {
		return nil, err
	}
	return custody.Signer(ctx, id.local())
}

func (c *Custodies) of(id ID) (Custody, error) {
	if custody := c.places[id.Place()]; custody != nil {
		return custody, nil
	}
	return nil, errs.New(errs.Unavailable, "the key %s is kept in the custody %q, which is not set up here: set keys.pkcs11.module, keys.pkcs11.token and keys.pkcs11.pin_file", id, id.Place())
}

// holdings is what a custody holds.
type holdings struct {
	ids     map[ID]bool
	problem error // the custody cannot be looked into
}

// holdings looks into every custody that can be looked into.
func (c *Custodies) holdings(ctx context.Context) map[Place]holdings {
	all := map[Place]holdings{}
	for place, custody := range c.places {
		inspector, ok := custody.(Inspector)
		if !ok {
			continue
		}
		ids, err := inspector.IDs(ctx)
		h := holdings{map[ID]bool{}, err}
		for _, id := range ids {
			h.ids[place.global(id)] = true
		}
		all[place] = h
	}
	return all
}

// inspect describes a key by the place where it is kept.
func (c *Custodies) inspect(ctx context.Context, id ID) (Info, error) {
	custody, err := c.of(id)
	if err != nil {
		return Info{}, err
	}
	inspector, ok := custody.(Inspector)
	if !ok {
		return Info{}, errs.New(errs.Unavailable, "the custody %q cannot be looked into", id.Place())
	}
	info, err := inspector.Inspect(ctx, id.local())
	info.ID = id
	return info, err
}
