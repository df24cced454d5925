package client

import (
	"context"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"mooring/internal/server/api/v1"
)

// Devices selects devices. Fields that are set must all fit.
type Devices struct {
	Group, State, Profile string
	Tag                   string    // "key" or "key=value"
	Issuer, Algorithm     string    // those that hold a certificate of this CA, for a key of this kind
	ExpiresBefore         time.Time // those that hold a certificate which ends before this time; then in order of the end
	ExpiresAfter          time.Time // … at this time or later
	SeenBefore, SeenAfter time.Time // those that were last heard of before, or at and after, these times
	Cursor                string
	Limit                 int // devices a page; 0 = 100, at most 1,000
}

func (f Devices) query() url.Values {
	q := query{}
	q.text("group", f.Group)
	q.text("state", f.State)
	q.text("profile", f.Profile)
	q.text("tag", f.Tag)
	q.text("issuer", f.Issuer)
	q.text("algorithm", f.Algorithm)
	q.time("expires_before", f.ExpiresBefore)
	q.time("expires_after", f.ExpiresAfter)
	q.time("seen_before", f.SeenBefore)
	q.time("seen_after", f.SeenAfter)
	q.text("cursor", f.Cursor)
	q.number("limit", int64(f.Limit))
	return url.Values(q)
}

// query is a query being made; zero values are left out.
type query url.Values

func (q query) text(name, value string) {
	if value != "" {
		url.Values(q).Set(name, value)
	}
}

func (q query) number(name string, value int64) {
	if value != 0 {
		url.Values(q).Set(name, strconv.FormatInt(value, 10))
	}
}

func (q query) time(name string, value time.Time) {
	if !value.IsZero() {
		url.Values(q).Set(name, value.UTC().Format(time.RFC3339))
	}
}

// pages makes one sequence of all pages. fetch returns a page and the cursor of the next one.
func pages[T any](cursor string, fetch func(cursor string) ([]T, string, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for {
			page, next, err := fetch(cursor)
			if err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, item := range page {
				if !yield(item, nil) {
					return
				}
			}
			if next == "" {
				return
			}
			cursor = next
		}
	}
}

// Devices returns one page of devices. While Next is set there are more.
func (c *Client) Devices(ctx context.Context, f Devices) (v1.DevicePage, error) {
	return get[v1.DevicePage](ctx, c, "/v1/devices", f.query())
}

// CountDevices returns how many devices pass f. Cursor and Limit do not count.
func (c *Client) CountDevices(ctx context.Context, f Devices) (v1.DeviceCount, error) {
	f.Cursor, f.Limit = "", 0
	return get[v1.DeviceCount](ctx, c, "/v1/inventory/count", f.query())
}

// Renewals returns how many certificates of the devices that pass f are to be renewed in each of so many spans, "hour" or "day" long.
func (c *Client) Renewals(ctx context.Context, f Devices, by string, spans int) (v1.Forecast, error) {
	f.Cursor, f.Limit = "", 0
	q := query(f.query())
	q.text("by", by)
	q.number("spans", int64(spans))
	return get[v1.Forecast](ctx, c, "/v1/inventory/renewals", url.Values(q))
}

// AllDevices returns every device that passes f, page by page. An error is the last thing that comes.
func (c *Client) AllDevices(ctx context.Context, f Devices) iter.Seq2[v1.Device, error] {
	return pages(f.Cursor, func(cursor string) ([]v1.Device, string, error) {
		f.Cursor = cursor
		p, err := c.Devices(ctx, f)
		return p.Devices, p.Next, err
	})
}

// Device returns the device with this name or id.
func (c *Client) Device(ctx context.Context, nameOrID string) (v1.Device, error) {
	return get[v1.Device](ctx, c, "/v1/devices/"+segment(nameOrID), nil)
}

// AddDevice registers a device, with a token when d.Token is set.
func (c *Client) AddDevice(ctx context.Context, d v1.NewDevice) (v1.AddedDevice, error) {
	return call[v1.AddedDevice](ctx, c, http.MethodPost, "/v1/devices", d)
}

// ChangeDevice changes what is set in d.
func (c *Client) ChangeDevice(ctx context.Context, nameOrID string, d v1.ChangeDevice) (v1.Device, error) {
	return call[v1.Device](ctx, c, http.MethodPatch, "/v1/devices/"+segment(nameOrID), d)
}

// MoveDevice changes the state of a device: move is "suspend", "resume", "lost" or "retire". Its certificates follow: they are put on hold,
// released, or revoked for reason, which may be "" or a name of RFC 5280, section 5.3.1.
func (c *Client) MoveDevice(ctx context.Context, nameOrID, move, reason string) (v1.MovedDevice, error) {
	return call[v1.MovedDevice](ctx, c, http.MethodPost, "/v1/devices/"+segment(nameOrID)+"/"+segment(move), v1.Reason{Reason: reason})
}

// NewToken gives a device a new enrolment token, good once and for life (0: a week); an older one is void.
func (c *Client) NewToken(ctx context.Context, nameOrID string, life time.Duration) (v1.Token, error) {
	in := v1.NewToken{}
	if life != 0 {
		in.Life = life.String()
	}
	return call[v1.Token](ctx, c, http.MethodPost, "/v1/devices/"+segment(nameOrID)+"/token", in)
}

// Requests returns the requests that wait for a decision, oldest first, at most limit (0: 100).
func (c *Client) Requests(ctx context.Context, limit int) ([]v1.Request, error) {
	q := query{}
	q.number("limit", int64(limit))
	list, err := get[v1.RequestList](ctx, c, "/v1/requests", url.Values(q))
	return list.Requests, err
}

// Approve approves the request that a device has waiting: the one with the id seen, or with "" whichever it is.
func (c *Client) Approve(ctx context.Context, nameOrID, seen string) (v1.Request, error) {
	return call[v1.Request](ctx, c, http.MethodPost, "/v1/requests/"+segment(nameOrID)+"/approve", v1.Decision{Request: seen})
}

// Refuse refuses the request that a device has waiting: the one with the id seen, or with "" whichever it is.
func (c *Client) Refuse(ctx context.Context, nameOrID, seen string) (v1.Request, error) {
	return call[v1.Request](ctx, c, http.MethodPost, "/v1/requests/"+segment(nameOrID)+"/refuse", v1.Decision{Request: seen})
}
