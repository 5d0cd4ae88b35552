package cluster

import (
	"context"
	"errors"
	"slices"

	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/fair"
)

// Page is a page of a list of connections, in the order of their ids.
type Page struct {
	List  []*delivery.Connection
	Count int  // of the whole list
	More  bool // follow
}

// cut is the page of a whole list, in any order, that comes after an id; a limit of 0 is
// none.
func cut(list []*delivery.Connection, after string, limit int) Page {
	slices.SortFunc(list, delivery.CompareIDs)
	p := Page{List: list, Count: len(list)}
	if after != "" {
		from, _ := slices.BinarySearchFunc(list, after, func(c *delivery.Connection, id string) int {
			if c.ID.String() <= id {
				return -1
			}
			return 1
		})
		p.List = list[from:]
	}
	if limit > 0 && len(p.List) > limit {
		p.List, p.More = p.List[:limit], true
	}
	return p
}

// Connections are a tenant's, or one profile's, wherever they are: a page of those after
// an id. ErrSilent: a hub that is there does not answer. Before this hub's list is made begin
// is told how long it will be, and may refuse it; once it is made, end is called.
func (c *Cluster) Connections(ctx context.Context, tenant string, of *event.Profile, after string, limit int, begin func(size int) (end func(), err error)) (Page, error) {
	size := 1
	if of == nil {
		size = min(limit, c.cfg.Delivery.Tenants.Open(tenant))
	}
	end, err := begin(size)
	if err != nil {
		return Page{}, err
	}
	all := c.page(tenant, of, after, limit)
	end()
	if c.peers == nil {
		return all, nil
	}
	others := c.peers.Others()
	pages, errs := make([]Page, len(others)), make([]error, len(others))
	fair.ForEach(len(others), func(i int) { pages[i], errs[i] = c.pageOn(ctx, others[i], tenant, of, after, limit) })
	count, more := all.Count, all.More
	for _, p := range pages {
		all.List = append(all.List, p.List...)
		count, more = count+p.Count, more || p.More
	}
	all = cut(all.List, "", limit)
	return Page{List: all.List, Count: count, More: more || all.More}, errors.Join(errs...)
}

// page is this hub's.
func (c *Cluster) page(tenant string, of *event.Profile, after string, limit int) (p Page) {
	if of != nil {
		return cut(c.cfg.Delivery.Streams.Connections(tenant, of), after, limit)
	}
	p.List, p.Count, p.More = c.cfg.Delivery.Streams.Page(tenant, after, limit)
	return p
}

// pageOn is the page of one other hub, which may take several answers.
func (c *Cluster) pageOn(ctx context.Context, node [4]byte, tenant string, of *event.Profile, after string, limit int) (p Page, err error) {
	for p.More = true; p.More && len(p.List) < limit; {
		answer, err := c.ask(ctx, node, Call{Op: CallList, Tenant: tenant, Profile: of, After: after, Limit: limit - len(p.List)})
		if err != nil {
			return Page{}, err
		}
		list := make([]*delivery.Connection, len(answer.Connections))
		for i, d := range answer.Connections {
			list[i] = d.connection()
		}
		if answer.Count == nil {
			return cut(list, after, limit), nil
		}
		p.List, p.Count, p.More = append(p.List, list...), *answer.Count, answer.More && len(list) > 0
		if p.More {
			after = list[len(list)-1].ID.String()
		}
	}
	return p, nil
}
