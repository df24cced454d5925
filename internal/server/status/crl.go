package status

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/ca"
	"mooring/internal/core/revoke"
)

// crl serves a list: /crl/ISSUER.crl is the complete one, /crl/ISSUER/SHARD.crl that of a shard. With .delta.crl it is the delta list.
func (s *server) crl(w http.ResponseWriter, r *http.Request) error {
	name, delta, err := listName(r.PathValue("file"))
	if err != nil {
		return err
	}
	shard := int64(ca.Complete)
	issuer := r.PathValue("issuer")
	if issuer == "" {
		issuer = name
	} else if shard, err = shardNumber(name); err != nil {
		return err
	}
	i, err := s.CA.Issuer(issuer)
	if err != nil {
		return err
	}
	if i.Shards() == 0 && r.PathValue("issuer") != "" {
		return errs.New(errs.NotFound, "the CA %q has no shards: its one list is at /crl/%s.crl", i.Name(), i.ID())
	}
	l, err := s.list(r.Context(), i.ID(), shard, delta)
	if err != nil {
		return err
	}
	age := min(listAge, time.Duration(max(0, l.NextUpdate-s.Now().Unix()))*time.Second)
	serve(w, r, file{mediaType: typeCRL, body: s.Revoke.Content(r.Context(), l), tag: l.Digest[:], modified: time.Unix(l.ThisUpdate, 0), age: age})
	return nil
}

func (s *server) list(ctx context.Context, id ca.IssuerID, shard int64, delta bool) (revoke.CRL, error) {
	if delta {
		return s.Revoke.Delta(ctx, id, shard)
	}
	return s.Revoke.CRL(ctx, id, shard)
}

// listName takes the extension off.
func listName(file string) (name string, delta bool, err error) {
	name, ok := strings.CutSuffix(file, ".crl")
	if !ok {
		return "", false, errs.New(errs.NotFound, "lists are at /crl/ISSUER.crl, those of shards at /crl/ISSUER/SHARD.crl")
	}
	name, delta = strings.CutSuffix(name, ".delta")
	return name, delta, nil
}

// shardNumber reads a number in the one way in which certificates write it.
func shardNumber(text string) (int64, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || strconv.FormatUint(n, 10) != text {
		return 0, errs.New(errs.NotFound, "there is no list %q: the lists of shards are numbered from 0", text)
	}
	return int64(n), nil
}
