package revoke

import (
	"bytes"
	"context"

	"mooring/internal/base/db"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
)

// Behind returns the certificates of a device that the newest in a slot replaced, newest first, as far as each leads to the one before it. It is
// for components that have decided who may see them.
func (s *Service) Behind(ctx context.Context, d *device.Device, slot string) (certs []*ca.Certificate, err error) {
	newest, ok := d.Slot(slot)
	if !ok {
		return nil, nil
	}
	one := *d
	one.Slots = []device.Slot{newest}
	beside, err := s.beside(ctx, &one)
	if err != nil {
		return nil, err
	}
	err = s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		all, err := s.certificatesTx(ctx, tx, &one, beside)
		certs = nil
		for _, c := range all {
			if !bytes.Equal(c.Serial[:], newest.Serial) {
				certs = append(certs, c)
			}
		}
		return err
	})
	return certs, err
}
