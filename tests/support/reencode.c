/* The put function for each type, fed from a view. Nothing is copied from view->bytes: a field that
 * the view lost is lost here. */
#include "tests/support/reencode.h"

#include <stdlib.h>

static size_t reencode_message(uint8_t *out, const struct wire_frame *view)
{
    if ((view->flags & WIRE_F_POOLED) != 0)
        return wire_put_pooled(out, view->type, view->priority,
                               view->flags & (uint16_t)~WIRE_F_POOLED, view->number, view->expiry,
                               view->text, view->text_size, &view->slot);
    return wire_put_message(out, view->type, view->priority, view->flags, view->number,
                            view->expiry, view->text, view->text_size, view->payload,
                            view->payload_size);
}

size_t reencode_frame(uint8_t *out, const struct wire_frame *view)
{
    size_t size;

    switch ((enum wire_type)view->type) {
    case WIRE_PUBLISH:
    case WIRE_REQUEST:
    case WIRE_REPLY:
    case WIRE_WILL:
        return reencode_message(out, view);
    case WIRE_MESSAGE:
        size = reencode_message(out, view);
        wire_patch_tries(out, view->tries);
        return size;
    case WIRE_SUBSCRIBE:
    case WIRE_UNSUBSCRIBE:
    case WIRE_REPORT:
    case WIRE_ADMIN:
        return wire_put_text(out, view->type, view->flags, (uint32_t)view->number, view->text,
                             view->text_size);
    case WIRE_REGISTER:
        return wire_put_register(out, view->flags, view->nonce, view->pid, view->start, view->pool,
                                 view->text, view->text_size);
    case WIRE_BYE:
        return wire_put_bye(out);
    case WIRE_FETCH:
        return wire_put_fetch(out, view->number);
    case WIRE_NUDGE:
        return wire_put_nudge(out);
    case WIRE_JOIN:
        return wire_put_join(out, view);
    case WIRE_ACK:
        return wire_put_acks(out, view->names, view->n_names);
    case WIRE_NACK:
        return wire_put_nack(out, view->flags, view->number, view->delay);
    case WIRE_ANSWER:
        return wire_put_answer(out, view->code, (uint32_t)view->number, view->count);
    case WIRE_WELCOME:
        return wire_put_welcome(out, view);
    case WIRE_STOPPED:
    case WIRE_ENDED:
        return wire_put_end(out, view->type, view->code);
    case WIRE_BOXED:
        return wire_put_boxed(out, view->buffer, view->boxed_size);
    case WIRE_LENT:
        return wire_put_lent(out, view->code, view->number, view->lent_offset, view->lent_size);
    }
    abort(); /* the decoder let a type through that there is not */
}
