package device

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
)

// A token is "mt_", 32 characters for 160 random bits, and 4 characters of checksum, in the alphabet of RFC 4648, section 6, in lower case.
// The checksum tells a typing error from a wrong token without a look into the registry.
const (
	tokenPrefix = "mt_"
	tokenSize   = 20 // octets
	tokenSum    = 4  // characters

	// TokenLife is how long a token is good when nobody says otherwise, TokenLifeMost the longest that may be asked for.
	TokenLife     = 7 * 24 * time.Hour
	TokenLifeMost = 90 * 24 * time.Hour
)

// saltSize is the size in octets of what makes one token of a device differ from its next.
const saltSize = 16

func newTokenSalt() []byte {
	salt := make([]byte, saltSize)
	rand.Read(salt)
	return salt
}

// tokenSecret derives the secret of the token of the device with this id and salt. Whoever has the database without the deployment key can
// derive none.
func (r *Registry) tokenSecret(id ID, salt []byte) []byte {
	sum := r.mac(domainSecret, append(id[:], salt...))
	return sum[:tokenSize]
}

// What is wrong with a token. Whoever holds none of ours learns the same whether or not the device exists: ErrTokenWrong. The other two
// are for the holder of the right token.
var (
	ErrTokenWrong   = errs.New(errs.Denied, "the device is unknown or the token is wrong: check both, or ask for a new token")
	ErrTokenUsed    = errs.New(errs.Denied, "this token was used already: ask for a new one")
	ErrTokenExpired = errs.New(errs.Denied, "this token has expired: ask for a new one")

	// errTokenPlain is ErrTokenWrong where a message authentication code was made with the token, which takes a token that can be derived.
	errTokenPlain = errs.Wrap(errs.Denied, ErrTokenWrong, "the device is unknown, the token is wrong, or it was given out before tokens could protect messages: check both, or ask for a new token")
)

func encodeTokenText(secret []byte) string {
	body := strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(secret))
	return tokenPrefix + body + tokenChecksum(body)
}

func tokenChecksum(body string) string {
	sum := sha256.Sum256([]byte(tokenPrefix + body))
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:5]))[:tokenSum]
}

// HashToken returns the SHA-256 under which the token with this text is stored. Blanks around it and the case do not matter. The error has
// kind Invalid and says that there is a typing error, nothing about any device.
func HashToken(text string) ([]byte, error) {
	text = strings.ToLower(strings.TrimSpace(text))
	body, ok := strings.CutPrefix(text, tokenPrefix)
	if !ok || len(body) != tokenSize*8/5+tokenSum {
		return nil, errs.New(errs.Invalid, "a token begins with %s and has %d characters: copy it again", tokenPrefix, len(tokenPrefix)+tokenSize*8/5+tokenSum)
	}
	body, sum := body[:len(body)-tokenSum], body[len(body)-tokenSum:]
	secret, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(strings.ToUpper(body))
	if err != nil || sum != tokenChecksum(body) {
		return nil, errs.New(errs.Invalid, "the token has a typing error: copy it again")
	}
	hash := sha256.Sum256(secret)
	return hash[:], nil
}

// TokenMatches returns nil when hash is that of the device's token, which is neither used nor expired at now (UTC seconds); otherwise
// ErrTokenWrong, ErrTokenUsed or ErrTokenExpired. The zero Device, for one that does not exist, takes as long and gives ErrTokenWrong.
func (d *Device) TokenMatches(hash []byte, now int64) error {
	stored := make([]byte, sha256.Size)
	given := len(d.Token.Hash) == sha256.Size
	if given {
		copy(stored, d.Token.Hash)
	}
	equal := subtle.ConstantTimeCompare(stored, hash) == 1
	switch {
	case !given || !equal:
		return ErrTokenWrong
	case d.Token.Used != 0:
		return ErrTokenUsed
	case d.Token.Until <= now:
		return ErrTokenExpired
	}
	return nil
}

// tokenUntil returns the end of a token that is given out now for ttl.
func tokenUntil(now time.Time, ttl time.Duration) (int64, error) {
	if ttl == 0 {
		ttl = TokenLife
	}
	if ttl < time.Minute || ttl > TokenLifeMost {
		return 0, errs.New(errs.Invalid, "ttl: a token is good for one minute to 90 days")
	}
	return now.Add(ttl).Unix(), nil
}

const updateToken = `UPDATE device SET token = $4, token_salt = $7, token_until = $5, token_used = 0, policy = policy + 1, updated = $6
 WHERE cell = $1 AND id = $2 AND policy = $3`

// Token gives the device a new enrolment token, good once and for ttl (0 = TokenLife); an older one is void. The text is returned here and
// kept nowhere: it follows from the deployment key and a salt (TokenSecret).
func (r *Registry) Token(ctx context.Context, actor access.Actor, id ID, ttl time.Duration) (text string, until int64, err error) {
	if err := r.access.Require(ctx, actor, access.DeviceToken, id.String()); err != nil {
		return "", 0, err
	}
	now := r.now()
	if until, err = tokenUntil(now, ttl); err != nil {
		return "", 0, err
	}
	if err := r.MayEmpower(ctx, actor, id); err != nil {
		return "", 0, err
	}
	salt := newTokenSalt()
	secret := r.tokenSecret(id, salt)
	hash := sha256.Sum256(secret)
	err = r.db.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		d, err := r.loadTx(ctx, tx, id)
		if err != nil {
			return err
		}
		if err := r.sameGrant(&d, actor); err != nil {
			return err
		}
		if !d.State.Active() {
			return errs.New(errs.Conflict, "the device is %s: it cannot use a token", d.State)
		}
		n, err := tx.Exec(ctx, updateToken, int64(d.Cell), id[:], d.Policy, hash[:], until, now.Unix(), salt)
		if err := changed(n, err); err != nil {
			return err
		}
		return r.audit.Append(ctx, tx, audit.Entry{At: now.Unix(), Action: "device.token", Actor: actor.String(), Device: id.String(),
			Detail: r.tokenDetail(d.Policy+1, hash[:], salt, until)})
	})
	if err != nil {
		return "", 0, err
	}
	return encodeTokenText(secret), until, nil
}

// tokenDetail is what the record holds of a token.
func (r *Registry) tokenDetail(policy int64, hash, salt []byte, until int64) map[string]string {
	return map[string]string{"policy": strconv.FormatInt(policy, 10), "token": r.tokenMark(hash, salt).String(), "until": strconv.FormatInt(until, 10)}
}

// Presented is a device's present token, as it was looked up for whoever says to have it.
type Presented struct {
	ID   ID
	Text string // empty when there is none that could be checked
	// Device is the whole device as it was looked up after Mark was taken.
	Device Device
	Mark   Mark

	cell   uint8
	hash   []byte
	policy int64
}

// TokenSecret returns the text of the present token of the device with this external name, so that a message authentication code that was
// made with it can be checked. It asks nobody for permission: the text is for that check alone, and is neither kept nor shown.
//
// With ErrTokenUsed and ErrTokenExpired the text is returned too: only who turns out to have it may be told which of the two it is. An unknown
// device, one without a token and one with a token from before tokens could be derived all give the same error in the same time, which is
// ErrTokenWrong in what it means.
func (r *Registry) TokenSecret(ctx context.Context, name string) (text string, err error) {
	p, err := r.PresentToken(ctx, name)
	return p.Text, err
}

// PresentToken is TokenSecret with what SpendStmt needs.
func (r *Registry) PresentToken(ctx context.Context, name string) (p Presented, err error) {
	p.ID, p.cell = r.IDOf(name)
	p.Mark = r.Mark(p.ID)
	row, _, err := r.tokens.Get(ctx, p.ID) // of a device that is not there the zero one
	if err != nil {
		return p, fmt.Errorf("looking for the token: %w", err)
	}
	p.policy, p.Device = row.policy, row.device
	d := Device{Token: row.TokenState}
	secret := r.tokenSecret(p.ID, row.salt)
	hash := sha256.Sum256(secret)
	err = d.TokenMatches(hash[:], r.now().Unix())
	if len(row.salt) != saltSize || errors.Is(err, ErrTokenWrong) {
		return p, errTokenPlain
	}
	p.Text, p.hash = encodeTokenText(secret), hash[:]
	return p, err
}

// tokenRow is what the registry keeps of a device's token.
type tokenRow struct {
	TokenState
	salt   []byte
	policy int64
	device Device
}

// selectPresent reads the device as selectToDecide does, and the token's salt. Who shows a token asks about the device in the next moment.
const selectPresent = `SELECT ` + rowColumns + `0` + slotColumns + `, d.token_salt FROM device d` + joinedSlots + ` WHERE d.cell = $1 AND d.id = $2 ORDER BY s.slot`

// saltRow is a row of selectPresent without its last column.
type saltRow struct {
	db.Row
	salt *[]byte
}

// Scan scans the others.
func (r saltRow) Scan(dest ...any) error { return r.Row.Scan(append(dest, r.salt)...) }

// readTokens is the work of a db.Lookup.
func (r *Registry) readTokens(ctx context.Context, tx *db.Tx, ids []ID) (map[ID]tokenRow, error) {
	found := make(map[ID]tokenRow, len(ids))
	stmts := make([]*db.Stmt, len(ids))
	for i, key := range r.inOrder(ids) {
		stmts[i] = readPresent(key, found)
	}
	return found, tx.Send(ctx, stmts...)
}

func readPresent(key cellID, found map[ID]tokenRow) *db.Stmt {
	var g gather // of the rows of one device, one for each slot
	var t tokenRow
	return &db.Stmt{SQL: selectPresent, Args: []any{int64(key.cell), key.id[:]}, Each: func(row db.Row) error {
		err := g.row(saltRow{row, &t.salt})
		if err == nil {
			t.device = g.found[0]
			t.TokenState, t.policy = t.device.Token, t.device.Policy
			found[key.id] = t
		}
		return err
	}}
}
